from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.errors import FeaturesError, SchemaMismatch
from features.packing import unpack_history
from features.query_states import QueryStates, StateColumns, decode_states

COLUMNS = StateColumns(categories=("gender",), numbers=("age",))
QUERIES = pa.table(
    {
        "query_id": ["a", "quiet"],
        "gender": pa.array(["F", None]),
        "age": pa.array([30, None], pa.int32()),
    }
)


def events_of(*rows: tuple[str, str, int, int, str]) -> pa.Table:
    """(query, item, instant, position, split); the value is the position."""
    query_ids, item_ids, at_ms, positions, splits = zip(*rows, strict=True)
    return pa.table(
        {
            "query_id": query_ids,
            "item_id": item_ids,
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


def test_values_and_instants_go_with_their_items() -> None:
    last = unpack_history(rows_of(EVENTS)[4]["history"])
    assert (last.values, last.at_ms) == ([0.0, 1.0, 2.0, 3.0], [1_000, 2_000, 2_000, 2_000])


def test_events_at_one_instant_are_a_microsecond_apart_in_the_order_of_position() -> None:
    instants = [row["event_timestamp"].timestamp() for row in rows_of(EVENTS) if row["query_id"] == "a"]
    # The state before all events is 1 us before the log's first event at 1,000 ms.
    np.testing.assert_allclose(instants, [0.999999, 1.0, 2.0, 2.000001, 2.000002], atol=1e-7, rtol=0)


def test_a_history_keeps_its_newest_events() -> None:
    assert histories(rows_of(EVENTS, history_length=2), query_id="a")[-1] == ["i3", "i4"]


def test_events_of_other_splits_never_happened() -> None:
    rows = rows_of(EVENTS, splits={"train", "validation"})
    assert histories(rows, query_id="a") == [[], ["i1"], ["i1", "i2"], ["i1", "i2", "i3"]]
    assert histories(rows_of(EVENTS, splits={"test"}), query_id="a") == [[], ["i4"]]


def test_attributes_that_are_missing_are_empty_or_nan() -> None:
    attributes = {row["query_id"]: (row["gender"], row["age"]) for row in rows_of(EVENTS)}
    assert attributes["a"] == ("F", 30.0)
    for query_id in ("b", "quiet"):
        gender, age = attributes[query_id]
        assert gender == ""
        assert np.isnan(age)


def test_a_log_without_events_has_the_states_before_all() -> None:
    assert histories(rows_of(EVENTS.slice(0, 0)), query_id="a") == [[]]


def test_columns_survive_the_schema_in_their_order() -> None:
    columns = StateColumns(categories=("z", "a"), numbers=("y", "b"))
    assert StateColumns.from_schema(columns.schema) == columns


def test_a_null_state_decodes_to_an_unknown_query() -> None:
    nothing: dict[str, list[Any]] = {name: [None] for name in COLUMNS.features}
    features, known = decode_states(nothing, columns=COLUMNS, requested_at_ms=[7])
    assert (known, features.history_item_ids, features.categories) == ([False], [[]], [[""]])
    assert np.isnan(features.numbers[0][0])
    assert features.requested_at_ms == [7]


def test_positions_against_the_clock_are_refused_with_the_query() -> None:
    with pytest.raises(FeaturesError, match="query a has an event at 2000 ms before one at 1000 ms"):
        rows_of(events_of(("a", "i1", 2_000, 0, "train"), ("a", "i2", 1_000, 1, "train")))


def test_more_ties_than_microseconds_are_refused_and_as_many_are_not() -> None:
    ties = [("a", "i", 5, position, "train") for position in range(1_001)]
    assert len(rows_of(events_of(*ties[:1_000]))) == 1_002
    with pytest.raises(FeaturesError, match="query a has 1001 at 5 ms"):
        rows_of(events_of(*ties))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaMismatch, match="states need the columns position, which events or queries lack"):
        rows_of(EVENTS.drop_columns(["position"]))
    with pytest.raises(SchemaMismatch, match="history, state_at_ms, position, event_timestamp, created missing"):
        StateColumns.from_schema(QUERIES.schema)


@pytest.mark.parametrize("name", ["history", "age", "two words"])
def test_attributes_need_names_of_their_own(name: str) -> None:
    with pytest.raises(FeaturesError, match=f"got '{name}'"):
        StateColumns(categories=(name,), numbers=("age",))
