"""Clean events -> ordered histories and daily item counts, as ibis expressions.

Owns the relational part of the preparation. Each function takes an ibis table and returns one, so the same text runs on
DuckDB and, where one machine is outgrown, on Spark (`engines.py`), with the same rows: every order is a total one, and
nothing depends on the order in which an engine meets its rows.
"""

import ibis
import ibis.expr.types as ir

DAY_MS = 86_400_000


def ordered_events(events: ir.Table) -> ir.Table:
    """One row an action, with its `position` (int32, from 0) in its query's history, in order of time.

    Of rows that agree in query, item, event and time the last in the raw log stays: a correction replaces what it
    corrects. Ties in time are broken by source_row, the order of the raw log.
    """
    same_action = ibis.window(
        group_by=[events.query_id, events.item_id, events.event, events.occurred_at_ms],
        order_by=ibis.desc(events.source_row),
    )
    newest_first = events.mutate(age=ibis.row_number().over(same_action))
    latest = newest_first.filter(newest_first.age == 0).select(*events.columns)
    history = ibis.window(group_by=latest.query_id, order_by=[latest.occurred_at_ms, latest.source_row])
    placed = latest.mutate(position=ibis.row_number().over(history).cast("int32"))
    return placed.order_by(["occurred_at_ms", "source_row"])


def item_days(events: ir.Table) -> ir.Table:
    """Events and their summed value by item, UTC day and split.

    Popularity as of any tick, for any set of splits, is a sum over these rows. Values are added from the smallest to
    the largest: a sum of floats is another in another order, on two engines and on two threads.
    """
    day = (events.occurred_at_ms // DAY_MS).cast("int32")
    by_day = events.mutate(day=day).group_by(["item_id", "day", "split"])
    counted = by_day.aggregate(
        num_events=ibis._.count().cast("int32"),
        num_positive=(ibis._.relevance > 0).sum().cast("int32"),
        value_sum=ibis._.value.collect().sort().sums(),
    )
    return counted.order_by(["day", "item_id", "split"])
