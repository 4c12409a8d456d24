from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalogue import Catalogue, ItemColumns
from features.dataset import Dataset, EventLog
from features.requests import PastRequests, each_event, each_stretch
from features.spec import DAY_MS

ITEM_IDS = ("a", "b", "c", "d")  # rows 2 to 5
# (query, item, day, split, relevance), a query's events in order of time. The test split begins on day 10.
EVENTS = [
    ("p", "a", 1.0, "train", 1.0),
    ("p", "b", 2.0, "train", 0.0),
    ("p", "c", 10.0, "test", 1.0),
    ("p", "a", 11.0, "test", 2.0),
    ("p", "c", 12.0, "test", 3.0),
    ("p", "b", 25.0, "test", 1.0),
    ("q", "d", 3.0, "train", 1.0),
    ("q", "a", 10.5, "test", 0.0),  # nothing that q wanted
    ("r", "d", 13.0, "test", 1.0),  # r is new
]


def dataset_of(events: Sequence[tuple[str, str, float, str, float]]) -> Dataset:
    query_ids = sorted({event[0] for event in events})
    log = [event for query_id in query_ids for event in events if event[0] == query_id]
    sizes = [sum(event[0] == query_id for event in log) for query_id in query_ids]
    return Dataset(
        name="by_hand",
        events=EventLog(
            query_ids=tuple(query_ids),
            offsets=np.cumsum([0, *sizes]),
            item_ids=tuple(event[1] for event in log),
            events=("chosen",) * len(log),
            values=np.ones(len(log)),
            at_ms=np.array([round(event[2] * DAY_MS) for event in log], dtype=np.int64),
            relevance=np.array([event[4] for event in log]),
            splits=np.array([event[3] for event in log], dtype=np.str_),
        ),
        items=ItemColumns(catalogue=Catalogue(ITEM_IDS), categories={}, numbers={}, texts={}),
        query_texts=[""] * len(query_ids),
        query_categories={},
        query_numbers={},
        titles=ITEM_IDS,
        item_days=pa.table({}),
        available_days=np.full(len(ITEM_IDS), np.nan),
    )


def shown(dataset: Dataset, requests: PastRequests) -> list[tuple[Any, ...]]:
    """Query, events known, day, and what was chosen with its grade and whether the query had it before."""
    return [
        (
            dataset.events.query_ids[requests.queries[n]],
            int(requests.stops[n] - dataset.events.offsets[requests.queries[n]]),
            requests.requested_at_ms[n] / DAY_MS,
            {
                dataset.items.catalogue.item_id(int(row)): (float(grade), bool(had))
                for row, grade, had in zip(requests.relevant[n], requests.grades[n], requests.had[n], strict=True)
                if row
            },
        )
        for n in range(len(requests))
    ]


def test_one_request_a_split_knows_what_came_before_it_and_looks_for_all_that_came_then() -> None:
    dataset = dataset_of(EVENTS)
    assert shown(dataset, each_stretch(dataset, "test")) == [
        # of c's grades 1 and 3 the higher; p had a, and had met b though it did not want it
        ("p", 2, 10.0, {"a": (2.0, True), "b": (1.0, True), "c": (3.0, False)}),
        ("r", 0, 10.0, {"d": (1.0, False)}),
    ]


def test_a_request_a_week_knows_the_weeks_before_it() -> None:
    dataset = dataset_of(EVENTS)
    # Weeks begin on days 10, 17 and 24; nobody wants anything in the second.
    assert shown(dataset, each_stretch(dataset, "test", days=7)) == [
        ("p", 2, 10.0, {"a": (2.0, True), "c": (3.0, False)}),
        ("p", 5, 24.0, {"b": (1.0, True)}),
        ("r", 0, 10.0, {"d": (1.0, False)}),
    ]


def test_an_unwanted_event_before_the_first_wanted_one_is_not_known_when_the_stretch_begins() -> None:
    events = [("p", "a", 1.0, "train", 1.0), ("p", "b", 10.0, "test", 0.0), ("p", "c", 11.0, "test", 1.0)]
    dataset = dataset_of(events)
    assert shown(dataset, each_stretch(dataset, "test")) == [("p", 1, 10.0, {"c": (1.0, False)})]


def test_a_request_for_each_event_knows_all_before_it() -> None:
    dataset = dataset_of(EVENTS)
    assert shown(dataset, each_event(dataset, "test")) == [
        ("p", 2, 10.0, {"c": (1.0, False)}),
        ("p", 3, 11.0, {"a": (2.0, True)}),
        ("p", 4, 12.0, {"c": (3.0, True)}),
        ("p", 5, 25.0, {"b": (1.0, True)}),
        ("r", 0, 13.0, {"d": (1.0, False)}),
    ]


def test_a_split_without_events_asks_nothing() -> None:
    dataset = dataset_of(EVENTS)
    for requests in (each_stretch(dataset, "ranking"), each_stretch(dataset, "ranking", days=7)):
        assert (len(requests), requests.relevant.shape[0]) == (0, 0)
    assert len(each_event(dataset, "ranking")) == 0


def test_only_some_of_what_was_chosen_leaves_the_requests_that_chose_it() -> None:
    dataset = dataset_of(EVENTS)
    requests = each_stretch(dataset, "test")
    assert shown(dataset, requests.only(~requests.had)) == [
        ("p", 2, 10.0, {"c": (3.0, False)}),
        ("r", 0, 10.0, {"d": (1.0, False)}),
    ]
    assert shown(dataset, requests.only(requests.had)) == [("p", 2, 10.0, {"a": (2.0, True), "b": (1.0, True)})]
    assert requests.num_relevant.tolist() == [3, 1]
    assert len(requests.only(np.zeros_like(requests.had))) == 0


def test_the_grade_of_an_item_is_that_of_its_own_request() -> None:
    requests = each_stretch(dataset_of(EVENTS), "test")
    rows = np.array([[4, 2, 5, 0], [5, 4, 99, 0]])
    assert requests.grades_of(rows).tolist() == [[3.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_what_a_query_had_is_every_item_that_it_met_once() -> None:
    events = [("p", "a", 1.0, "train", 1.0), ("p", "a", 2.0, "train", 1.0), *EVENTS[1:]]
    dataset = dataset_of(events)
    requests = each_stretch(dataset, "test")
    assert requests.seen_rows(dataset).tolist() == [[2, 3], [0, 0]]
    owners, places = requests.known_events(dataset)
    assert owners.tolist() == [0, 0, 0]
    assert [dataset.events.item_ids[place] for place in places] == ["a", "a", "b"]


def test_states_are_cut_at_the_request() -> None:
    dataset = dataset_of(EVENTS)
    states = each_stretch(dataset, "test", days=7).states(dataset, length=2)
    assert states.history_item_ids == [["a", "b"], ["a", "c"], []]
    assert states.requested_at_ms == [10 * DAY_MS, 24 * DAY_MS, 10 * DAY_MS]


events_of = st.lists(
    st.tuples(
        st.sampled_from("pqr"),
        st.sampled_from(ITEM_IDS),
        st.integers(0, 40).map(lambda quarter: 8 + quarter / 4),
        st.sampled_from([0.0, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=80)
@given(drawn=events_of, days=st.sampled_from([None, 1, 3, 100]))
def test_requests_are_those_that_a_walk_through_the_log_makes(
    drawn: list[tuple[str, str, float, float]], days: int | None
) -> None:
    log = sorted(
        ((query, item, day, "train" if day < 10 else "test", grade) for query, item, day, grade in drawn),
        key=lambda event: (event[0], event[2]),
    )
    dataset = dataset_of(log)
    begins = min((event[2] for event in log if event[3] == "test"), default=0.0)
    expected = []
    for query in sorted({event[0] for event in log}):
        own = [event for event in log if event[0] == query]
        for stretch in range(20):
            start = begins + stretch * (days or 1000)
            inside = [e for e in own if e[3] == "test" and start <= e[2] < start + (days or 1000) and e[4] > 0]
            before = [event for event in own if event[2] < start]
            if inside:
                chosen = {
                    item: (max(e[4] for e in inside if e[1] == item), any(e[1] == item for e in before))
                    for item in sorted({e[1] for e in inside})
                }
                expected.append((query, len(before), start, chosen))
    assert shown(dataset, each_stretch(dataset, "test", days=days)) == expected
