from collections.abc import Callable

import numpy as np
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.split import TimeSplit
from lifecycle.groups import BY_HISTORY, BY_POPULARITY, groups_of, popularity_deciles
from lifecycle.slices import Slice, slices_of

ITEM_IDS = ["a", "b", "c", "d"]  # rows 2 to 5
# a was had by p, q and r, b by p and q, c by p alone, d by nobody. Test begins on day 10.
EVENTS = [
    *[("p", item_id, 1, "train") for item_id in "abcabc"],
    *[("q", item_id, 2, "train") for item_id in "aab"],
    ("r", "a", 3, "train"),
    *[(query_id, item_id, 10, "test") for query_id in "pqrs" for item_id in "abd"],
]
NUM_HAD = np.array([0, 0, 3, 2, 1, 0])
RECOMMENDABLE = np.array([False, False, True, True, True, False])


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=ITEM_IDS)


@pytest.fixture(scope="module")
def asked(dataset: Dataset, by_time: RequestProtocol) -> PastRequests:
    return by_time.asked(dataset, "test")


@pytest.fixture(scope="module")
def groups(dataset: Dataset, asked: PastRequests) -> dict[str, dict[str, Slice]]:
    main = slices_of(dataset, asked, repeats=True)[0]
    found = groups_of(dataset, asked, main=main, num_had=NUM_HAD, recommendable=RECOMMENDABLE)
    return {kind: {own.name: own for own in parts} for kind, parts in found.items()}


def test_queries_of_items_count_each_query_once(dataset: Dataset) -> None:
    assert dataset.queries_of_items(["train"]).tolist() == NUM_HAD.tolist()


def test_deciles_hold_tenths_of_the_items_and_equally_popular_ones_stand_together() -> None:
    recommendable = np.r_[False, False, np.ones(100, dtype=np.bool_)]
    num_had = np.r_[0, 0, np.arange(1, 101)]
    deciles = popularity_deciles(num_had, recommendable=recommendable)
    assert deciles[:2].tolist() == [0, 0]
    assert np.bincount(deciles[2:]).tolist() == [0, *[10] * 10]
    assert (deciles[2], deciles[11], deciles[12], deciles[101]) == (1, 1, 2, 10)
    # Thirty items had by one query fill the first three tenths: they all stand in the third.
    num_had[2:32] = 1
    assert np.bincount(popularity_deciles(num_had, recommendable=recommendable)[2:]).tolist() == [
        *[0, 0, 0, 30],
        *[10] * 7,
    ]


def test_pairs_are_grouped_by_the_popularity_of_what_was_chosen(groups: dict[str, dict[str, Slice]]) -> None:
    # Of three items a third, two thirds and all: c in the fourth decile, b in the seventh, a in the tenth.
    by_popularity = groups[BY_POPULARITY]
    assert list(by_popularity) == ["7: 2", "10: 3"]  # nobody chose c, and d no system can find
    assert [own.relevant.ravel().tolist() for own in by_popularity.values()] == [[3] * 4, [2] * 4]


def test_requests_are_grouped_by_how_many_events_they_knew(build_dataset: Callable[..., Dataset]) -> None:
    lengths = {"a": 0, "b": 1, "c": 5, "d": 6, "e": 20, "f": 21, "g": 50, "h": 51, "i": 200, "j": 201, "k": 0, "l": 400}
    events = [(query_id, "x", day / 1000, "train") for query_id, num in lengths.items() for day in range(num)]
    dataset = build_dataset([*events, *[(query_id, "x", 10, "test") for query_id in lengths]], item_ids=["x"])
    asked = RequestProtocol(split=TimeSplit(), repeats=True).asked(dataset, "test")
    main = slices_of(dataset, asked, repeats=True)[0]
    found = groups_of(dataset, asked, main=main, num_had=np.ones(3, np.int64), recommendable=np.ones(3, dtype=np.bool_))
    named = {own.name: "".join(sorted(lengths)[place] for place in own.places) for own in found[BY_HISTORY]}
    assert named == {"0": "ak", "1-5": "bc", "6-20": "de", "21-50": "fg", "51-200": "hi", "over 200": "jl"}


def test_a_group_of_one_request_is_left_out(groups: dict[str, dict[str, Slice]]) -> None:
    # p knows 6 events, q 3, r 1, s none: only q and r are two of a kind.
    assert {name: own.places.tolist() for name, own in groups[BY_HISTORY].items()} == {"1-5": [1, 2]}
