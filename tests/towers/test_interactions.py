import numpy as np
import pytest

from towers.retrievers.interactions import interaction_matrix


def test_a_pair_is_1_however_often_it_happened_and_unknown_items_are_left_out():
    matrix = interaction_matrix(
        query_rows=np.array([70, 70, 70, 5, 5]), item_rows=np.array([3, 3, 2, 1, 3]), num_rows=5
    )
    # queries in the order of their numbers: 5, then 70
    np.testing.assert_array_equal(matrix.toarray(), [[0, 0, 0, 1, 0], [0, 0, 1, 1, 0]])


def test_no_events_make_an_empty_matrix():
    nothing = np.zeros(0, dtype=np.int64)
    assert interaction_matrix(query_rows=nothing, item_rows=nothing, num_rows=5).shape == (0, 5)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"equally long rows below 5; got \(2,\) and \(1,\)"):
        interaction_matrix(query_rows=np.array([0, 1]), item_rows=np.array([2]), num_rows=5)
