from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from features.catalogue import Catalogue, ItemColumns
from features.dataset import Dataset, EventLog
from features.errors import FeaturesError
from features.protocol import RequestProtocol
from features.spec import DAY_MS
from features.split import InstantSplit, LeaveOneOut, TimeSplit

ITEM_IDS = ("a", "b", "c", "d")  # rows 2 to 5
# (query, item, day, split): two queries have a, q has b twice, and c was chosen by nobody before.
EVENTS = [
    ("p", "a", 1, "train"),
    ("p", "c", 9, "test"),
    ("p", "a", 10, "test"),
    ("q", "a", 2, "train"),
    ("q", "b", 3, "train"),
    ("q", "b", 4, "ranking"),
    ("q", "c", 9, "test"),
]


def dataset_of(events: Sequence[tuple[str, str, int, str]], *, relevance: Sequence[float] | None = None) -> Dataset:
    query_ids = sorted({event[0] for event in events})
    return Dataset(
        name="by_hand",
        events=EventLog(
            query_ids=tuple(query_ids),
            offsets=np.cumsum([0, *(sum(event[0] == query_id for event in events) for query_id in query_ids)]),
            item_ids=tuple(event[1] for event in events),
            events=("chosen",) * len(events),
            values=np.ones(len(events)),
            at_ms=np.array([event[2] * DAY_MS for event in events], dtype=np.int64),
            relevance=np.ones(len(events)) if relevance is None else np.array(relevance),
            splits=np.array([event[3] for event in events], dtype=np.str_),
        ),
        items=ItemColumns(catalogue=Catalogue(ITEM_IDS), categories={}, numbers={}, texts={}),
        query_texts=[""] * len(query_ids),
        query_categories={},
        query_numbers={},
        titles=ITEM_IDS,
        item_days=pa.table(
            {
                "item_id": [event[1] for event in events],
                "day": pa.array([event[2] for event in events], pa.int32()),
                "split": [event[3] for event in events],
                "num_events": pa.array([1] * len(events), pa.int32()),
                "num_positive": pa.array([1] * len(events), pa.int32()),
                "value_sum": [1.0] * len(events),
            }
        ),
        available_days=np.full(len(ITEM_IDS), np.nan),
    )


def recommended(protocol: RequestProtocol, dataset: Dataset, splits: tuple[str, ...] = ("train", "ranking")) -> str:
    rows = np.flatnonzero(protocol.recommendable(dataset, splits))
    return "".join(ITEM_IDS[row - 2] for row in rows)


def looked_for(protocol: RequestProtocol) -> list[tuple[str, str]]:
    """Query and items that a recommender is asked for in the test split."""
    dataset = dataset_of(EVENTS)
    recommendable = protocol.recommendable(dataset, ("train", "ranking"))
    asked = protocol.looked_for(protocol.asked(dataset, "test"), recommendable=recommendable)
    return [
        (dataset.events.query_ids[query], "".join(ITEM_IDS[row - 2] for row in rows if row))
        for query, rows in zip(asked.queries, asked.relevant, strict=True)
    ]


@pytest.mark.parametrize(("least", "items"), [(0, "abcd"), (1, "ab"), (2, "a"), (3, "")])
def test_an_item_can_be_recommended_once_enough_queries_had_it(least: int, items: str) -> None:
    # q had b twice, which is one query
    protocol = RequestProtocol(split=TimeSplit(), repeats=True, min_item_queries=least)
    assert recommended(protocol, dataset_of(EVENTS)) == items


def test_who_refused_an_item_does_not_have_it() -> None:
    dataset = dataset_of(EVENTS, relevance=[1, 1, 1, 0, 1, 1, 1])
    protocol = RequestProtocol(split=TimeSplit(), repeats=True, min_item_queries=2)
    assert recommended(protocol, dataset) == ""


def test_a_query_asks_once_a_split_that_is_divided_by_time_and_before_each_event_of_one_that_is_not() -> None:
    assert looked_for(RequestProtocol(split=TimeSplit(), repeats=True)) == [("p", "ac"), ("q", "c")]
    cuts = InstantSplit(ranking="1970-01-05", validation="1970-01-06", test="1970-01-10")
    assert looked_for(RequestProtocol(split=cuts, repeats=True)) == [("p", "ac"), ("q", "c")]
    assert looked_for(RequestProtocol(split=LeaveOneOut(), repeats=True)) == [("p", "c"), ("p", "a"), ("q", "c")]


def test_what_a_query_had_is_looked_for_only_where_it_may_be_recommended_again() -> None:
    assert looked_for(RequestProtocol(split=TimeSplit(), repeats=False)) == [("p", "c"), ("q", "c")]


def test_what_cannot_be_recommended_is_a_miss_or_is_not_looked_for() -> None:
    split = TimeSplit()
    assert looked_for(RequestProtocol(split=split, repeats=True, count_unreachable=False)) == [("p", "a")]
    assert looked_for(RequestProtocol(split=split, repeats=False, count_unreachable=False)) == []


def test_features_know_all_before_their_tick_where_time_divides_the_splits_and_else_the_given_splits() -> None:
    dataset = dataset_of(EVENTS)
    for split, days in ((TimeSplit(), [1, 2, 3, 4, 9, 9, 10]), (LeaveOneOut(), [1, 2, 3])):
        protocol = RequestProtocol(split=split, repeats=True)
        assert sorted(protocol.item_days(dataset, ("train",)).days.tolist()) == days


def test_a_report_can_say_what_was_asked() -> None:
    assert RequestProtocol(split=LeaveOneOut(), repeats=False).description == (
        "leave-one-out; full ranking over all items that at least 1 query had, relevant items outside count as misses"
    )
    by_time = TimeSplit(train=0.75, ranking=0.05, validation=0.1, shares_of="time")
    protocol = RequestProtocol(split=by_time, repeats=True, min_item_queries=5, count_unreachable=False)
    assert protocol.description == (
        "time split 75/5/10/10 by time; full ranking over all items that at least 5 queries had, "
        "relevant items outside are not looked for"
    )
    cuts = InstantSplit(ranking="2000-01-02", validation="2000-01-03", test="2000-01-04")
    assert RequestProtocol(split=cuts, repeats=False, min_item_queries=0).description == (
        "split at 2000-01-02, 2000-01-03 and 2000-01-04; full ranking over all items, "
        "relevant items outside count as misses"
    )


def test_a_negative_number_of_queries_is_refused() -> None:
    with pytest.raises(FeaturesError, match=r"dataset\.min_item_queries must be 0 or more, got -1"):
        RequestProtocol(split=LeaveOneOut(), repeats=False, min_item_queries=-1)
