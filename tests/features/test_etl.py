import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.etl import DAY_MS, item_days, ordered_events, run
from features.events import CLEAN_EVENTS


@pytest.fixture(scope="module")
def duckdb():
    connection = ibis.duckdb.connect()
    yield connection
    connection.disconnect()


@pytest.fixture(scope="module")
def sqlite():
    connection = ibis.sqlite.connect()
    yield connection
    connection.disconnect()


def log(*rows: tuple[str, str, float, int, int]) -> pa.Table:
    """Rows of (query, item, value, occurred_at_ms, source_row)."""
    names = ("query_id", "item_id", "value", "occurred_at_ms", "source_row")
    return pa.Table.from_pylist(
        [{**dict(zip(names, row, strict=True)), "event": "rating"} for row in rows], schema=CLEAN_EVENTS
    )


def test_events_are_in_order_of_time_and_ties_in_order_of_the_raw_log():
    events = log(("q", "c", 1.0, 20, 0), ("q", "b", 1.0, 10, 2), ("p", "a", 1.0, 10, 1), ("q", "a", 1.0, 10, 3))
    ordered = run(ordered_events, events)
    assert ordered["source_row"].to_pylist() == [1, 2, 3, 0]
    # p has one event; q has rows 2, 3 (both at 10 ms), then 0.
    assert ordered["position"].to_pylist() == [0, 0, 1, 2]
    assert ordered.schema == CLEAN_EVENTS.append(pa.field("position", pa.int32()))


def test_a_later_row_of_the_same_action_replaces_the_earlier_one():
    events = log(("q", "a", 3.0, 10, 0), ("q", "a", 5.0, 10, 1), ("q", "a", 4.0, 11, 2))
    ordered = run(ordered_events, events)
    assert ordered.select(["value", "position"]).to_pydict() == {"value": [5.0, 4.0], "position": [0, 1]}


def test_item_days_count_and_sum_by_item_utc_day_and_split():
    events = log(
        ("p", "a", 3.0, DAY_MS - 1, 0),
        ("q", "a", 5.0, DAY_MS, 1),
        ("p", "a", 2.0, 2 * DAY_MS - 1, 2),
        ("q", "b", 1.0, 0, 3),
    ).append_column("split", pa.array(["train", "train", "train", "test"]))
    assert run(item_days, events).to_pylist() == [
        {"item_id": "a", "day": 0, "split": "train", "num_events": 1, "value_sum": 3.0},
        {"item_id": "b", "day": 0, "split": "test", "num_events": 1, "value_sum": 1.0},
        {"item_id": "a", "day": 1, "split": "train", "num_events": 2, "value_sum": 7.0},
    ]
    assert run(item_days, events).schema.types == [pa.string(), pa.int32(), pa.string(), pa.int32(), pa.float64()]


def test_an_empty_log_has_the_same_columns():
    ordered = run(ordered_events, log())
    assert (ordered.num_rows, ordered.column_names[-1]) == (0, "position")


rows = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.sampled_from("ab"),
        st.integers(1, 5).map(float),
        st.integers(0, 3).map(lambda n: n * DAY_MS),
    ),
    max_size=15,
)


@settings(deadline=None, max_examples=15)
@given(rows)
def test_two_engines_give_the_same_rows_from_the_same_expressions(duckdb, sqlite, rows):
    events = log(*[(*row, place) for place, row in enumerate(rows)])
    ordered = run(ordered_events, events, engine=duckdb)
    assert run(ordered_events, events, engine=sqlite).equals(ordered)
    divided = ordered.append_column("split", pa.array(["train"] * ordered.num_rows, pa.string()))
    assert run(item_days, divided, engine=sqlite).equals(run(item_days, divided, engine=duckdb))


@settings(deadline=None, max_examples=15)
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_input_rows_changes_nothing(duckdb, rows, random):
    events = log(*[(*row, place) for place, row in enumerate(rows)])
    shuffled = events.take(random.sample(range(len(rows)), len(rows))) if rows else events
    assert run(ordered_events, shuffled, engine=duckdb).equals(run(ordered_events, events, engine=duckdb))
