from collections.abc import Callable

import numpy as np
import pytest

from evaluation.report import query_metrics
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from lifecycle.slices import Slice, slices_of

ITEM_IDS = ["a", "b", "c", "d"]  # rows 2 to 5
# Test begins on day 10. p comes back for a and tries c, q comes back for b alone, r and s are new.
EVENTS = [
    *[("p", "a", 1, "train"), ("p", "b", 2, "train"), ("p", "a", 10, "test"), ("p", "c", 11, "test")],
    *[("q", "b", 3, "train"), ("q", "b", 12, "test")],
    *[("r", "a", 11, "test"), ("r", "d", 12, "test"), ("s", "d", 12, "test")],
]
# In which order every query is shown the items, what it had left in.
SHOWN = np.array([[2, 3, 4, 5]] * 4)


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=ITEM_IDS)


@pytest.fixture(scope="module")
def asked(dataset: Dataset, by_time: RequestProtocol) -> PastRequests:
    return by_time.asked(dataset, "test")


@pytest.fixture(scope="module")
def slices(dataset: Dataset, asked: PastRequests) -> dict[str, Slice]:
    return {own.name: own for own in slices_of(dataset, asked, repeats=True)}


def looked_for(part: Slice, dataset: Dataset, asked: PastRequests) -> dict[str, str]:
    return {
        dataset.events.query_ids[asked.queries[place]]: "".join(ITEM_IDS[row - 2] for row in rows if row)
        for place, rows in zip(part.places, part.relevant, strict=True)
    }


def ndcg(part: Slice) -> list[float]:
    """At 3, of each query of the slice."""
    values = query_metrics(ranked=SHOWN[part.places], relevant=part.relevant, ks=(3,))
    return values["ndcg@3"].tolist()


def test_all_pairs_come_first_and_hold_every_query(
    slices: dict[str, Slice], dataset: Dataset, asked: PastRequests
) -> None:
    assert list(slices) == ["all pairs", "new pairs", "repeated pairs", "warm queries", "cold queries"]
    everything = slices["all pairs"]
    assert looked_for(everything, dataset, asked) == {"p": "ac", "q": "b", "r": "ad", "s": "d"}
    assert (everything.num_pairs, everything.exclude_seen) == (6, False)
    # p: ranks 1 and 3 of two, (1 + 1/2) / (1 + 1/log2(3)); q: rank 2; r: rank 1 of two; s: d stands fourth
    best_of_two = 1 + 1 / np.log2(3)
    assert ndcg(everything) == pytest.approx([1.5 / best_of_two, 1 / np.log2(3), 1 / best_of_two, 0.0])


def test_new_pairs_are_those_that_a_query_never_had_on_lists_without_what_it_had(
    slices: dict[str, Slice], dataset: Dataset, asked: PastRequests
) -> None:
    new = slices["new pairs"]
    assert looked_for(new, dataset, asked) == {"p": "c", "r": "ad", "s": "d"}  # q chose nothing new
    assert (new.num_pairs, new.exclude_seen) == (4, True)
    assert ndcg(new) == pytest.approx([1 / 2, 1 / (1 + 1 / np.log2(3)), 0.0])


def test_repeated_pairs_are_the_others(build_dataset: Callable[..., Dataset], by_time: RequestProtocol) -> None:
    dataset = build_dataset([*EVENTS, ("q", "a", 4, "train"), ("s", "d", 5, "train")], item_ids=ITEM_IDS)
    asked = by_time.asked(dataset, "test")
    (repeated,) = [own for own in slices_of(dataset, asked, repeats=True) if own.name == "repeated pairs"]
    assert looked_for(repeated, dataset, asked) == {"p": "a", "q": "b", "s": "d"}
    assert (repeated.num_pairs, repeated.exclude_seen) == (3, False)
    assert ndcg(repeated) == pytest.approx([1.0, 1 / np.log2(3), 0.0])


def test_queries_with_and_without_a_history_are_told_apart(
    slices: dict[str, Slice], dataset: Dataset, asked: PastRequests
) -> None:
    assert looked_for(slices["warm queries"], dataset, asked) == {"p": "ac", "q": "b"}
    assert looked_for(slices["cold queries"], dataset, asked) == {"r": "ad", "s": "d"}


def test_a_slice_of_one_query_is_left_out(slices: dict[str, Slice], dataset: Dataset, asked: PastRequests) -> None:
    two = asked.take(np.array([0, 2]))  # p and r: one warm, one cold, and one that came back
    assert [own.name for own in slices_of(dataset, two, repeats=True)] == ["all pairs", "new pairs"]


def test_where_nothing_is_had_again_all_pairs_are_new(dataset: Dataset, leave_one_out: RequestProtocol) -> None:
    asked = leave_one_out.looked_for(leave_one_out.asked(dataset, "test"), recommendable=np.ones(6, dtype=np.bool_))
    slices = slices_of(dataset, asked, repeats=False)
    assert [(own.name, own.exclude_seen) for own in slices] == [
        *[("new pairs", True), ("warm queries", True), ("cold queries", True)],
    ]
    # Each event is a request: c of p, then a and d of r, of which the first is cold, and d of s.
    assert [own.places.tolist() for own in slices] == [[0, 1, 2, 3], [0, 2], [1, 3]]
    assert slices[0].relevant.tolist() == [[4], [2], [5], [5]]


def test_items_that_nobody_had_are_a_slice_where_they_can_be_recommended(dataset: Dataset, asked: PastRequests) -> None:
    # c and d stand in no training event: p chose c, r and s chose d.
    is_cold = np.array([False, False, False, False, True, True])
    *others, cold = slices_of(dataset, asked, repeats=True, is_cold=is_cold)
    assert (cold.name, cold.exclude_seen, cold.num_pairs) == ("cold items", False, 3)
    assert looked_for(cold, dataset, asked) == {"p": "c", "r": "d", "s": "d"}
    assert "cold items" not in [own.name for own in others]
    without = slices_of(dataset, asked, repeats=True, is_cold=np.zeros(6, dtype=np.bool_))
    assert [own.name for own in without] == [own.name for own in others]
