import numpy as np
import pytest

from evaluation.errors import InvalidLists
from evaluation.variety import coverage, novelty, variety

ALLOWED = np.array([False, False, True, True, True, True])  # rows 2 to 5
RANKED = np.array([[2, 3, 4], [2, 4, 0], [2, 0, 0]])
NUM_HAD = np.array([0, 0, 8, 4, 1, 0])  # of 8 queries: 0, 1 and 3 bits; what nobody had as what one had


def test_coverage_is_the_share_of_the_allowed_items_that_anyone_is_shown():
    # At 1 all see row 2; at 2 rows 2, 3, 4; at 3 no other.
    assert [coverage(RANKED, allowed=ALLOWED, k=k) for k in (1, 2, 3)] == [1 / 4, 3 / 4, 3 / 4]


def test_novelty_is_the_mean_self_information_of_what_is_shown():
    assert novelty(RANKED, num_had=NUM_HAD, num_queries=8, k=1).tolist() == [0.0, 0.0, 0.0]
    # Rows 2, 3, 4: (0 + 1 + 3) / 3; rows 2, 4: 3 / 2; row 2 alone: 0. Places without an item do not count.
    np.testing.assert_allclose(novelty(RANKED, num_had=NUM_HAD, num_queries=8, k=3), [4 / 3, 3 / 2, 0.0])


def test_what_nobody_had_tells_as_much_as_what_one_had():
    assert novelty(np.array([[5], [4]]), num_had=NUM_HAD, num_queries=8, k=1).tolist() == [3.0, 3.0]


def test_an_empty_list_shows_nothing_and_is_left_out_of_the_mean():
    ranked = np.array([[4, 0], [0, 0]])
    assert np.isnan(novelty(ranked, num_had=NUM_HAD, num_queries=8, k=2)).tolist() == [False, True]
    shown = variety(ranked, allowed=ALLOWED, num_had=NUM_HAD, num_queries=8, ks=(1, 2))
    assert shown == {"coverage@1": 1 / 4, "novelty@1": 3.0, "coverage@2": 1 / 4, "novelty@2": 3.0}
    nothing = variety(ranked[1:], allowed=ALLOWED, num_had=NUM_HAD, num_queries=8, ks=(1,))
    assert nothing == {"coverage@1": 0.0, "novelty@1": 0.0}


def test_showing_all_items_to_somebody_covers_the_catalogue_and_popular_lists_tell_least():
    generator = np.random.default_rng(1)
    num_had = np.r_[0, 0, np.sort(generator.integers(1, 90, size=40))[::-1]]
    allowed = np.arange(42) >= 2
    spread = np.stack([generator.permutation(np.arange(2, 42))[:10] for _ in range(50)])
    popular = np.tile(np.arange(2, 12), (50, 1))
    assert coverage(spread, allowed=allowed, k=10) == 1.0
    assert coverage(popular, allowed=allowed, k=10) == 10 / 40
    lowest = novelty(popular, num_had=num_had, num_queries=100, k=10)
    assert (novelty(spread, num_had=num_had, num_queries=100, k=10) >= lowest).all()


@pytest.mark.parametrize(
    ("ranked", "k", "message"),
    [
        (RANKED, 4, r"K >= k; got shape \(3, 3\) and k = 4"),
        (np.array([[1]]), 1, "expected lists of the 4 items that are allowed; 1 others"),
    ],
)
def test_lists_that_cannot_be_measured_are_refused(ranked, k, message):
    with pytest.raises(InvalidLists, match=message):
        coverage(ranked, allowed=ALLOWED, k=k)
