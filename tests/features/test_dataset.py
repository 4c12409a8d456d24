from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.errors import FeaturesError
from features.spec import DAY_MS
from features.transforms import QueryFeatures
from features.vocab import NumberScale

COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title", "genres"),
    query_text="asked",
    min_category_count=2,
)


class Event(NamedTuple):
    query_id: str
    item_id: str
    value: float
    at_ms: int
    position: int
    split: str
    event: str = "view"
    relevance: float = 1.0


# As prepare_data writes them: ordered by time over all queries, ties by position.
EVENTS = [
    Event("q2", "b", 3.0, 1 * DAY_MS, 0, "train"),
    Event("q10", "a", 5.0, 1 * DAY_MS + 7, 0, "train", "purchase", 2.0),
    Event("q2", "a", 4.0, 2 * DAY_MS, 1, "train", "skip", 0.0),
    Event("q2", "c", 1.0, 2 * DAY_MS, 2, "validation"),
    Event("q10", "b", 2.0, 3 * DAY_MS, 1, "test", "refund", 0.0),
    Event("q2", "d", 5.0, 4 * DAY_MS, 3, "test"),
]
ITEMS = pa.table(
    {
        "item_id": ["c", "a", "b", "d", "unused"],
        "title": ["Sea  at\nnight", "Toy", None, "Dune", ""],
        "genres": [["Drama", "Crime"], ["Drama"], None, ["Western"], ["Drama"]],
        "year": pa.array([1990, 2000, None, 1970, 1900], pa.int32()),
        # c can be had from the last millisecond of day 0, d from the first of day 3; nobody says for the others.
        "available_from": pa.array([DAY_MS - 1, None, None, 3 * DAY_MS, None], pa.timestamp("ms", tz="UTC")),
    }
)
QUERIES = pa.table(
    {
        "query_id": ["quiet", "q2", "q10"],
        "gender": pa.array(["M", None, "F"]),
        "age": pa.array([99.0, 20.0, None], pa.float64()),
        "asked": ["", "two  words\n", None],
    }
)


def write(
    directory: Path, *, events: list[Event] = EVENTS, items: pa.Table = ITEMS, queries: pa.Table = QUERIES
) -> Path:
    """A prepared dataset as features.dataset reads it."""
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    columns = list(zip(*events, strict=True)) or [[] for _ in Event._fields]
    query_ids, item_ids, values, at_ms, positions, splits, kinds, relevance = (list(column) for column in columns)
    table = pa.table(
        {
            "query_id": pa.array(query_ids, pa.string()),
            "item_id": pa.array(item_ids, pa.string()),
            "event": pa.array(kinds, pa.string()),
            "value": pa.array(values, pa.float64()),
            "occurred_at_ms": pa.array(at_ms, pa.int64()),
            "position": pa.array(positions, pa.int32()),
            "relevance": pa.array(relevance, pa.float32()),
            "split": pa.array(splits, pa.string()),
        }
    )
    keys = sorted({(event.at_ms // DAY_MS, event.item_id, event.split) for event in events})
    of_key = [[e for e in events if (e.at_ms // DAY_MS, e.item_id, e.split) == key] for key in keys]
    item_days = pa.table(
        {
            "item_id": pa.array([item_id for _, item_id, _ in keys], pa.string()),
            "day": pa.array([day for day, _, _ in keys], pa.int32()),
            "split": pa.array([split for _, _, split in keys], pa.string()),
            "num_events": pa.array([len(own) for own in of_key], pa.int32()),
            "num_positive": pa.array([sum(e.relevance > 0 for e in own) for own in of_key], pa.int32()),
            "value_sum": pa.array([sum(e.value for e in own) for own in of_key], pa.float64()),
        }
    )
    for name, content in (("events", table), ("items", items), ("queries", queries), ("item_days", item_days)):
        pq.write_table(content, directory / "tables" / f"{name}.parquet")
    return directory


def read(directory: Path, columns: FeatureColumns = COLUMNS) -> Dataset:
    return Dataset.read(directory, name="tiny", columns=columns)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read(write(tmp_path_factory.mktemp("prepared")))


def test_events_are_grouped_by_query_and_stay_in_the_order_of_position(dataset):
    log = dataset.events
    assert log.query_ids == ("q10", "q2")
    assert log.offsets.tolist() == [0, 2, 6]
    assert log.item_ids == ("a", "b", "b", "a", "c", "d")
    assert log.values.tolist() == [5, 2, 3, 4, 1, 5]
    assert log.events == ("purchase", "refund", "view", "skip", "view", "view")
    assert log.relevance.tolist() == [2, 0, 1, 0, 1, 1]
    assert log.splits.tolist() == ["train", "test", "train", "train", "validation", "test"]


def test_places_are_those_of_the_named_splits_and_lead_to_their_query(dataset):
    places = dataset.events.places(["test", "validation"])
    assert places.tolist() == [1, 4, 5]
    assert dataset.events.query_of(places).tolist() == [0, 1, 1]
    assert dataset.events.places(["ranking"]).tolist() == []


def test_what_may_be_learnt_as_relevant_is_not_what_was_refused(dataset):
    assert dataset.events.positives(["train", "test"]).tolist() == [0, 2, 5]
    assert dataset.events.positives(["ranking"]).tolist() == []


def test_the_catalogue_keeps_the_order_of_the_items_table_with_items_nobody_chose(dataset):
    assert dataset.items.catalogue.item_ids == ("c", "a", "b", "d", "unused")
    assert dataset.event_rows().tolist() == [3, 4, 4, 3, 2, 5]


def test_missing_facts_become_empty_or_nan(dataset):
    assert dataset.items.categories["genres"] == [["Drama", "Crime"], ["Drama"], [], ["Western"], ["Drama"]]
    np.testing.assert_array_equal(dataset.items.numbers["year"], [1990, 2000, np.nan, 1970, 1900])
    # in the order of the log's queries: q10, q2
    assert dataset.query_categories == {"gender": ["F", ""]}
    np.testing.assert_array_equal(dataset.query_numbers["age"], [np.nan, 20.0])
    np.testing.assert_array_equal(dataset.available_days, [0, np.nan, np.nan, 3, np.nan])


def test_what_a_query_says_is_one_line_and_empty_where_it_says_nothing(dataset, tmp_path):
    assert dataset.query_texts == ["", "two words"]
    assert dataset.before(np.array([0, 5]), length=None).texts == ["", "two words"]
    silent = read(write(tmp_path), replace(COLUMNS, query_text=""))
    assert silent.query_texts == ["", ""]


def test_texts_are_one_line_and_the_first_is_the_title(dataset):
    assert dataset.items.texts["title"] == ["Sea at night", "Toy", "", "Dune", ""]
    assert dataset.items.texts["genres"] == ["Drama, Crime", "Drama", "", "Western", "Drama"]
    assert dataset.titles == ("Sea at night", "Toy", "", "Dune", "")


def test_before_an_event_a_query_has_its_earlier_events_and_its_attributes(dataset):
    queries = dataset.before(np.array([5, 0]), length=None)
    assert queries.history_item_ids == [["b", "a", "c"], []]
    assert queries.history_events == [["view", "skip", "view"], []]
    assert queries.history_values == [[3.0, 4.0, 1.0], []]
    assert queries.history_at_ms == [[DAY_MS, 2 * DAY_MS, 2 * DAY_MS], []]
    assert queries.categories == [[""], ["F"]]
    assert queries.requested_at_ms == [4 * DAY_MS, DAY_MS + 7]


def test_before_keeps_the_newest_events_and_never_reaches_into_another_query(dataset):
    # q2's first event stands at place 2, right after the events of q10
    assert dataset.before(np.array([5, 3, 2]), length=2).history_item_ids == [["a", "c"], ["b"], []]


def test_a_state_is_what_a_query_knows_at_any_place_and_instant(dataset):
    # q10 (the first two places) after none, one and both of its events, q2 after all four; asked for much later
    later = 9 * DAY_MS
    queries = dataset.states(
        np.array([0, 0, 0, 1]), np.array([0, 1, 2, 6]), requested_at_ms=np.array([later] * 4), length=3
    )
    assert queries.history_item_ids == [[], ["a"], ["a", "b"], ["a", "c", "d"]]
    assert queries.history_values == [[], [5.0], [5.0, 2.0], [4.0, 1.0, 5.0]]
    assert queries.history_at_ms[1] == [DAY_MS + 7]
    assert queries.categories == [["F"], ["F"], ["F"], [""]]
    assert queries.requested_at_ms == [later] * 4


def test_before_an_event_is_the_state_up_to_its_place_at_its_instant(dataset):
    places = np.arange(6)
    states = dataset.states(
        dataset.events.query_of(places), places, requested_at_ms=dataset.events.at_ms[places], length=2
    )
    assert_equal(states, dataset.before(places, length=2))


def assert_equal(one: QueryFeatures, other: QueryFeatures) -> None:
    """The same features; a missing number is nan, which equals nothing."""
    assert repr(one) == repr(other)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events of up to three queries in order of time; many share an instant."""
    rows = draw(st.lists(st.tuples(st.sampled_from(["q2", "q10", "quiet"]), st.integers(0, 4)), max_size=15))
    events: list[Event] = []
    for query_id, hour in sorted(rows, key=lambda row: row[1]):
        position = sum(event.query_id == query_id for event in events)
        item_id, split = draw(st.sampled_from("abcd")), draw(st.sampled_from(["train", "test"]))
        kind, relevance = draw(st.sampled_from([("view", 1.0), ("skip", 0.0)]))
        at_ms = hour * 10 * 3_600_000
        events.append(Event(query_id, item_id, float(len(events)), at_ms, position, split, kind, relevance))
    return events


@settings(deadline=None, max_examples=25)
@given(events=logs(), length=st.one_of(st.none(), st.integers(0, 4)))
def test_before_equals_a_slow_search_through_the_log(tmp_path_factory, events, length):
    dataset = read(write(tmp_path_factory.mktemp("log"), events=events))
    in_log_order = sorted(events, key=lambda event: (event.query_id, event.position))
    queries = dataset.before(np.arange(len(events)), length=length)
    for place, event in enumerate(in_log_order):
        # The value numbers the events, so it tells apart two that choose the same item at the same time.
        earlier = [e for e in in_log_order if e.query_id == event.query_id and e.position < event.position]
        newest = earlier if length is None else earlier[len(earlier) - min(length, len(earlier)) :]
        assert queries.history_values[place] == [e.value for e in newest]
        assert queries.history_item_ids[place] == [e.item_id for e in newest]
        assert queries.history_events[place] == [e.event for e in newest]
        assert queries.history_at_ms[place] == [e.at_ms for e in newest]
        assert queries.requested_at_ms[place] == event.at_ms


def test_daily_counts_are_those_of_the_named_splits_alone(dataset):
    days = dataset.days(["train"])
    counts = {
        (int(row), int(day)): tuple(numbers)
        for row, day, *numbers in zip(days.rows, days.days, days.counts, days.positives, days.value_sums, strict=True)
    }
    assert counts == {(4, 1): (1, 1, 3.0), (3, 1): (1, 1, 5.0), (3, 2): (1, 0, 4.0)}  # on day 2 a was refused
    assert days.num_rows == len(dataset.items.catalogue)
    # padding and unknown, then the items in their order
    np.testing.assert_array_equal(days.available_days, [np.nan, np.nan, 0, np.nan, np.nan, 3, np.nan])
    assert dataset.days(["train", "validation", "test"]).counts.sum() == len(EVENTS)
    assert len(dataset.days(["ranking"]).rows) == 0


def test_vocabularies_are_fitted_on_the_named_splits_alone(dataset):
    fitted = dataset.fit_vocabularies(["train"], columns=COLUMNS)
    # train: q2 chose b and a, q10 chose a; so c, d and the unused item are unknown
    assert fitted.categories["item_id"].values == ("a", "b")
    assert fitted.categories["event"].values == ("purchase", "skip", "view")  # once each
    assert fitted.categories["genres"].values == ()  # Drama stands once among a and b
    assert fitted.numbers["year"] == NumberScale(mean=2000.0, deviation=1.0)  # a's year alone; b has none
    assert fitted.numbers["age"] == NumberScale(mean=20.0, deviation=1.0)
    assert fitted.categories["gender"].values == ("F",)
    # values 3, 5 and 4: mean 4, deviation sqrt((1 + 1 + 0) / 3)
    assert fitted.numbers["history_value"] == NumberScale(mean=4.0, deviation=pytest.approx((2 / 3) ** 0.5))


def test_more_splits_teach_more_values(dataset):
    fitted = dataset.fit_vocabularies(["train", "validation", "test"], columns=COLUMNS)
    assert fitted.categories["item_id"].values == ("a", "b", "c", "d")  # a and b twice, c and d once
    assert fitted.categories["genres"].values == ("Drama",)  # of c and a; the unused item's counts for nothing
    every = dataset.fit_vocabularies(["train", "test"], columns=replace(COLUMNS, min_category_count=1))
    assert every.categories["genres"].values == ("Drama", "Western")
    # years 2000 (a) and 1970 (d): mean 1985, deviation 15
    assert every.numbers["year"] == NumberScale(mean=1985.0, deviation=15.0)


def test_events_of_other_splits_change_nothing_in_a_fit(tmp_path, dataset):
    others = [event if event.split == "train" else event._replace(item_id="unused", value=0.0) for event in EVENTS]
    other = read(write(tmp_path, events=others))
    assert other.fit_vocabularies(["train"], columns=COLUMNS) == dataset.fit_vocabularies(["train"], columns=COLUMNS)


def test_a_dataset_may_have_ids_alone(tmp_path):
    bare = FeatureColumns(query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=())
    dataset = read(
        write(tmp_path, items=ITEMS.select(["item_id", "available_from"]), queries=QUERIES.select(["query_id"])), bare
    )
    assert dataset.titles == ("c", "a", "b", "d", "unused")  # an item without a text is called by its id
    assert dataset.before(np.array([5]), length=None).categories == [[]]
    assert dataset.before(np.array([5]), length=None).numbers == [[]]
    fitted = dataset.fit_vocabularies(["train"], columns=bare)
    assert (set(fitted.categories), set(fitted.numbers)) == ({"item_id", "event"}, {"history_value"})


def test_a_first_text_of_several_values_is_shown_as_one_line(tmp_path):
    dataset = read(write(tmp_path), replace(COLUMNS, item_texts=("genres",)))
    assert dataset.titles == ("Drama, Crime", "Drama", "", "Western", "Drama")


def test_a_log_without_events_can_be_read(tmp_path):
    dataset = read(write(tmp_path, events=[]))
    assert dataset.events.query_ids == ()
    assert dataset.events.offsets.tolist() == [0]
    assert len(dataset.before(dataset.events.places(["train"]), length=None)) == 0


@pytest.mark.parametrize("table", ["events", "items", "queries", "item_days"])
def test_a_missing_table_says_what_to_run(tmp_path, table):
    (write(tmp_path) / "tables" / f"{table}.parquet").unlink()
    with pytest.raises(FeaturesError, match=rf"no prepared data at .*{table}\.parquet: run scripts/prepare_data\.py"):
        read(tmp_path)
