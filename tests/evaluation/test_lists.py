import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import InvalidLists
from evaluation.lists import top_items

ALL = np.array([False, False, True, True, True, True])


def test_items_come_by_score_and_equal_scores_by_row():
    lists = top_items(np.array([[9.0, 9, 1, 3, 3, 2]]), k=3, allowed=ALL)
    # rows 0 and 1 are padding and unknown; 3 and 4 tie, the lower row first
    np.testing.assert_array_equal(lists.rows, [[3, 4, 5]])
    np.testing.assert_array_equal(lists.scores, [[3, 3, 2]])


def test_the_history_of_a_query_is_excluded_from_its_own_list_only():
    scores = np.array([[0.0, 0, 4, 3, 2, 1]] * 2)
    lists = top_items(scores, k=2, allowed=ALL, excluded=np.array([[0, 2], [3, 4]]))
    np.testing.assert_array_equal(lists.rows, [[3, 4], [2, 5]])


def test_a_list_that_runs_out_of_items_ends_in_padding():
    lists = top_items(np.array([[0.0, 0, 4, -np.inf, 2, 1]]), k=5, allowed=ALL, excluded=np.array([[2]]))
    np.testing.assert_array_equal(lists.rows, [[4, 5, 0, 0, 0]])
    np.testing.assert_array_equal(lists.scores, [[2, 1, -np.inf, -np.inf, -np.inf]])


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=12), st.integers(1, 14))
def test_a_partial_sort_equals_a_full_one(scores, k):
    own = np.array([scores], dtype=np.float32)
    allowed = np.ones(len(scores), dtype=np.bool_)
    full = sorted(range(1, len(scores)), key=lambda row: (-scores[row], row))[:k]
    found = top_items(own, k=k, allowed=allowed).rows[0]
    assert found[found > 0].tolist() == full


def test_a_score_that_is_nan_is_refused_by_query():
    with pytest.raises(InvalidLists, match="query 1 hold nan"):
        top_items(np.array([[0.0, 0, 1, 1, 1, 1], [0, 0, np.nan, 1, 1, 1]]), k=2, allowed=ALL)


def test_a_mask_of_another_catalogue_is_refused():
    with pytest.raises(InvalidLists, match=r"allowed \[6\].*got k = 2, allowed \(5,\)"):
        top_items(np.zeros((1, 6)), k=2, allowed=ALL[:5])
