"""Items and queries: how unevenly the events fall on them."""

from lifecycle.data_report import counts, figures
from lifecycle.data_report.counts import Spread
from lifecycle.data_report.drawing import drawn
from lifecycle.data_report.html import Html, count, counted, joined, share, table, whole_share
from lifecycle.data_report.log import Log
from lifecycle.data_report.section import KeyNumber, Section, card, cards, numbers_behind

FEW_EVENTS = (1, 2, 4, 9)


def items_section(log: Log, *, num_items: int) -> Section:
    """The long tail; of a log with at least one event."""
    items = counts.spread(log.items.codes, num_known=num_items)
    num = len(items.counts)
    tops = [(part, items.num_top(part), items.top(part)) for part in counts.TOP_SHARES]
    named = [
        f"{share(events)} {'' if place else 'fall '}on the {'top' if place else 'most popular'} {whole_share(part)}"
        f"{'' if place else ' of items'} ({count(number)})"
        for place, (part, number, events) in enumerate(tops)
    ]
    finding = f"Of the events, {', '.join(named[:-1])} and {named[-1]}."
    reading = (
        f"The Gini coefficient is {items.gini:.2f}: it would be 0 if every item had the same number of events, and "
        f"{1 - 1 / num:.2g} if one of the {count(num)} had them all."
    )
    without = "every item of the catalogue has some"
    if items.num_without:
        without = (
            f"{counted(items.num_without, 'item')} of the catalogue ({share(items.num_without, num_items)}) have none"
        )
    tail = (
        f"The most popular item has {counted(int(items.counts[0]), 'event')}, "
        f"the median one {count(items.quantile(0.5))}; {without}."
    )
    by_rank = drawn(
        lambda: figures.items_by_rank(counts.by_rank(items), num_items=num),
        name="rank",
        description="Events of an item by its rank, on logarithmic axes",
    )
    lorenz = drawn(
        lambda: figures.concentration(counts.concentration(items), num_items=num),
        name="lorenz",
        description="Share of events that the most popular items have",
    )
    top_rows = [(f"top {whole_share(part)}", count(number), share(events)) for part, number, events in tops]
    return Section(
        anchor="items",
        title="Items",
        finding=joined(finding),
        content=cards(
            card(
                "Concentration",
                reading=reading,
                content=joined(lorenz, numbers_behind(table(["items", "number", "of the events"], top_rows))),
            ),
            card("The long tail", reading=tail, content=joined(by_rank, numbers_behind(_few(items, "items")))),
        ),
        key_numbers=(
            KeyNumber(count(num_items), "items", f"{share(items.num_without, num_items)} without an event"),
            KeyNumber(share(items.top(0.1)), "of events on the top tenth", f"of the items; Gini {items.gini:.2f}"),
        ),
    )


def queries_section(log: Log, *, num_queries: int, history_length: int, stored_history: int) -> Section:
    """The lengths of histories; of a log with at least one event."""
    queries, items = (
        counts.spread(log.queries.codes, num_known=num_queries),
        counts.spread(log.items.codes, num_known=0),
    )
    middle, longest = queries.quantile(0.5), int(queries.counts[0])
    short = queries.quantile(0.1)
    finding = (
        f"The median query has {counted(middle, 'event')}; one in ten has at most {count(short)}, one in ten at least "
        f"{count(_from_top(queries, 0.1))}, the longest {count(longest)}."
    )
    seen = min(history_length, stored_history)
    reading = (
        f"{share(1 - queries.at_most(seen))} of the queries have more than the newest {seen:,} events that the query "
        f"tower sees, {share(1 - queries.at_most(stored_history))} more than the {stored_history:,} that are stored."
    )
    if not stored_history:
        reading = "What a query did is no feature of this dataset: no history is stored."
    marks = [(f"tower: {seen:,}", seen), (f"stored: {stored_history:,}", stored_history)][seen == stored_history :]
    drawing = drawn(
        lambda: figures.lengths(
            counts.histogram(queries), what="queries", marks=[mark for mark in marks if 0 < mark[1] <= longest]
        ),
        name="histories",
        description="How many queries have how many events",
    )
    of_items = drawn(
        lambda: figures.lengths(counts.histogram(items), what="items", marks=[]),
        name="item-lengths",
        description="How many items have how many events",
    )
    rare = f"{share(items.at_most(4))} of the items with events have fewer than 5, {share(items.at_most(1))} have one."
    return Section(
        anchor="queries",
        title="Queries",
        finding=joined(finding),
        content=cards(
            card(
                "Lengths of histories",
                reading=reading,
                content=joined(drawing, numbers_behind(_few(queries, "queries"))),
            ),
            card("Events of an item", reading=rare, content=joined(of_items, numbers_behind(_few(items, "items")))),
        ),
        key_numbers=(KeyNumber(count(num_queries), "queries", f"median: {counted(middle, 'event')}"),),
    )


def _from_top(queries: Spread, part: float) -> int:
    """The least number of events among the longest `part` of the histories."""
    return int(queries.counts[max(queries.num_top(part) - 1, 0)])


def _few(found: Spread, what: str) -> Html:
    num = len(found.counts)
    rows = [
        (f"at most {number}", count(round(found.at_most(number) * num)), share(found.at_most(number)))
        for number in FEW_EVENTS
    ]
    rows += [
        (f"{name} has", count(found.quantile(part)), "")
        for name, part in (("the median", 0.5), ("the 90th of 100", 0.9), ("the 99th of 100", 0.99))
    ]
    return table(["events", what, "share"], rows)
