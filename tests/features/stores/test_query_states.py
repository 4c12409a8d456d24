from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.errors import FeaturesError, SchemaMismatch
from features.stores.packing import unpack_history
from features.stores.query_states import QueryStates
from features.stores.state_rows import StateColumns

COLUMNS = StateColumns(categories=("gender",), numbers=("age",), text="says")
QUERIES = pa.table(
    {
        "query_id": ["a", "quiet"],
        "says": ["two  words\n", None],
        "gender": pa.array(["F", None]),
        "age": pa.array([30, None], pa.int32()),
    }
)


def events_of(*rows: tuple[str, str, int, int, str]) -> pa.Table:
    """(query, item, instant, position, split); the value is the position, and even ones are views."""
    query_ids, item_ids, at_ms, positions, splits = zip(*rows, strict=True)
    return pa.table(
        {
            "query_id": query_ids,
            "item_id": item_ids,
            "event": ["buy" if position % 2 else "view" for position in positions],
            "value": np.array(positions, dtype=np.float64),
            "occurred_at_ms": np.array(at_ms, dtype=np.int64),
            "position": np.array(positions, dtype=np.int32),
            "split": splits,
        }
    )


EVENTS = events_of(
    ("a", "i3", 2_000, 2, "validation"),  # the table's order is not the log's
    ("a", "i1", 1_000, 0, "train"),
    ("a", "i2", 2_000, 1, "train"),
    ("b", "i9", 1_500, 0, "train"),  # a query that the table of queries lacks
    ("a", "i4", 2_000, 3, "test"),
)


def rows_of(events: pa.Table, *, splits: set[str] | None = None, history_length: int = 50) -> list[dict[str, Any]]:
    states = QueryStates.of(events, queries=QUERIES, columns=COLUMNS, splits=splits)
    return list(states.rows(np.arange(len(states.query)), history_length=history_length).to_pylist())


def histories(rows: list[dict[str, Any]], *, query_id: str) -> list[list[str]]:
    return [unpack_history(row["history"]).item_ids for row in rows if row["query_id"] == query_id]


def test_a_state_holds_the_events_up_to_and_including_its_own() -> None:
    rows = rows_of(EVENTS)
    assert histories(rows, query_id="a") == [[], ["i1"], ["i1", "i2"], ["i1", "i2", "i3"], ["i1", "i2", "i3", "i4"]]
    assert histories(rows, query_id="b") == [["i9"]]
    assert histories(rows, query_id="quiet") == [[]]


def test_kinds_values_and_instants_go_with_their_items() -> None:
    last = unpack_history(rows_of(EVENTS)[4]["history"])
    assert last.events == ["view", "buy", "view", "buy"]
    assert (last.values, last.at_ms) == ([0.0, 1.0, 2.0, 3.0], [1_000, 2_000, 2_000, 2_000])


def test_a_state_holds_from_a_microsecond_after_its_event_and_ties_follow_by_position() -> None:
    rows = [row for row in rows_of(EVENTS) if row["query_id"] == "a"]
    instants = [row["event_timestamp"].timestamp() for row in rows]
    # The log begins at 1,000 ms; the state before all events holds right then, before the first one's.
    np.testing.assert_allclose(instants, [1.0, 1.000001, 2.000001, 2.000002, 2.000003], atol=1e-7, rtol=0)
    assert [row["state_at_ms"] for row in rows] == [999, 1_000, 2_000, 2_000, 2_000]
    assert [row["position"] for row in rows] == [-1, 0, 1, 2, 3]


def test_a_history_keeps_its_newest_events() -> None:
    assert histories(rows_of(EVENTS, history_length=2), query_id="a")[-1] == ["i3", "i4"]


def test_events_of_other_splits_never_happened() -> None:
    rows = rows_of(EVENTS, splits={"train", "validation"})
    assert histories(rows, query_id="a") == [[], ["i1"], ["i1", "i2"], ["i1", "i2", "i3"]]
    assert histories(rows_of(EVENTS, splits={"test"}), query_id="a") == [[], ["i4"]]


def test_attributes_that_are_missing_are_empty_or_nan() -> None:
    attributes = {row["query_id"]: (row["says"], row["gender"], row["age"]) for row in rows_of(EVENTS)}
    assert attributes["a"] == ("two words", "F", 30.0)
    for query_id in ("b", "quiet"):
        says, gender, age = attributes[query_id]
        assert (says, gender) == ("", "")
        assert np.isnan(age)


def test_a_log_without_events_has_the_states_before_all() -> None:
    assert histories(rows_of(EVENTS.slice(0, 0)), query_id="a") == [[]]


def test_positions_against_the_clock_are_refused_with_the_query() -> None:
    with pytest.raises(FeaturesError, match="query a has an event at 2000 ms before one at 1000 ms"):
        rows_of(events_of(("a", "i1", 2_000, 0, "train"), ("a", "i2", 1_000, 1, "train")))


def test_more_ties_than_microseconds_are_refused_and_as_many_are_not() -> None:
    ties = [("a", "i", 5, position, "train") for position in range(1_001)]
    rows = rows_of(events_of(*ties[:1_000]))
    assert (len(rows), rows[1_000]["state_at_ms"]) == (1_002, 5)
    with pytest.raises(FeaturesError, match="query a has 1001 at 5 ms"):
        rows_of(events_of(*ties))


def test_a_missing_column_is_named() -> None:
    events = EVENTS.drop_columns(["position", "event"])
    with pytest.raises(SchemaMismatch, match="states need the columns event, position, which events or queries lack"):
        rows_of(events)
    with pytest.raises(SchemaMismatch, match="states need the columns says, which"):
        QueryStates.of(EVENTS, queries=QUERIES.drop_columns(["says"]), columns=COLUMNS)
