import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.engines import DuckDbEngine
from features.etl import DAY_MS, item_days, ordered_events
from features.events import CLEAN_EVENTS


@pytest.fixture(scope="module")
def run():
    with DuckDbEngine().started() as run:
        yield run


def log(*rows: tuple[str, str, float, int, int]) -> pa.Table:
    """Rows of (query, item, value, occurred_at_ms, source_row)."""
    names = ("query_id", "item_id", "value", "occurred_at_ms", "source_row")
    return pa.Table.from_pylist(
        [{**dict(zip(names, row, strict=True)), "event": "rating"} for row in rows], schema=CLEAN_EVENTS
    )


def divided(events: pa.Table, splits: list[str], *, relevance: list[float]) -> pa.Table:
    """Events as item_days reads them."""
    with_splits = events.append_column("split", pa.array(splits, pa.string()))
    return with_splits.append_column("relevance", pa.array(relevance, pa.float32()))


def test_events_are_in_order_of_time_and_ties_in_order_of_the_raw_log(run):
    events = log(("q", "c", 1.0, 20, 0), ("q", "b", 1.0, 10, 2), ("p", "a", 1.0, 10, 1), ("q", "a", 1.0, 10, 3))
    ordered = run(ordered_events, events)
    assert ordered["source_row"].to_pylist() == [1, 2, 3, 0]
    # p has one event; q has rows 2, 3 (both at 10 ms), then 0.
    assert ordered["position"].to_pylist() == [0, 0, 1, 2]
    assert ordered.schema == CLEAN_EVENTS.append(pa.field("position", pa.int32()))


def test_a_later_row_of_the_same_action_replaces_the_earlier_one(run):
    events = log(("q", "a", 3.0, 10, 0), ("q", "a", 5.0, 10, 1), ("q", "a", 4.0, 11, 2))
    ordered = run(ordered_events, events)
    assert ordered.select(["value", "position"]).to_pydict() == {"value": [5.0, 4.0], "position": [0, 1]}


def test_item_days_count_and_sum_by_item_utc_day_and_split(run):
    events = log(
        ("p", "a", 3.0, DAY_MS - 1, 0),
        ("q", "a", 5.0, DAY_MS, 1),
        ("p", "a", 2.0, 2 * DAY_MS - 1, 2),
        ("q", "b", 1.0, 0, 3),
    )
    events = divided(events, ["train", "train", "train", "test"], relevance=[1.0, 2.0, 0.0, 0.0])
    names = ("item_id", "day", "split", "num_events", "num_positive", "value_sum")
    assert [tuple(row[name] for name in names) for row in run(item_days, events).to_pylist()] == [
        ("a", 0, "train", 1, 1, 3.0),
        ("b", 0, "test", 1, 0, 1.0),
        ("a", 1, "train", 2, 1, 7.0),  # of two events on day 1 one was refused
    ]
    schema = run(item_days, events).schema
    assert schema.names == list(names)
    assert schema.types == [pa.string(), pa.int32(), pa.string(), pa.int32(), pa.int32(), pa.float64()]


def test_an_empty_log_has_the_same_columns(run):
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
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_input_rows_changes_nothing(run, rows, random):
    events = log(*[(*row, place) for place, row in enumerate(rows)])
    shuffled = events.take(random.sample(range(len(rows)), len(rows))) if rows else events
    assert run(ordered_events, shuffled).equals(run(ordered_events, events))


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=15)
@given(st.lists(FINITE, min_size=1, max_size=50))
def test_the_values_of_a_day_are_added_from_the_smallest_to_the_largest(run, values):
    total = 0.0
    for value in sorted(values):
        total += value
    events = log(*[("q", "a", value, 0, place) for place, value in enumerate(values)])
    events = divided(events, ["train"] * len(values), relevance=[1.0] * len(values))
    assert run(item_days, events)["value_sum"].to_pylist() == [total]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads):
    # 300,000 rows: DuckDB gives a thread 122,880 rows at a time. Each item has 30 values that no sum of floats keeps.
    num = 300_000
    events = pa.table(
        {
            "query_id": [f"q{place % 100}" for place in range(num)],
            "item_id": [f"i{place % 10_000}" for place in range(num)],
            "event": ["view"] * num,
            "value": [((place * 7919) % 1000) / 7 for place in range(num)],
            "occurred_at_ms": [place % 5000 for place in range(num)],
            "source_row": range(num),
        },
        schema=CLEAN_EVENTS,
    )
    events = divided(events, ["train"] * num, relevance=[1.0] * num)
    with DuckDbEngine(threads=threads).started() as run:
        days = run(item_days, events)
    assert days.num_rows == 10_000
    totals: dict[str, float] = {}
    for item_id, value in sorted(zip(events["item_id"].to_pylist(), events["value"].to_pylist(), strict=True)):
        totals[item_id] = totals.get(item_id, 0.0) + value
    assert dict(zip(days["item_id"].to_pylist(), days["value_sum"].to_pylist(), strict=True)) == totals
