import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.weights import (
    ease_weights,
    item_knn_weights,
    recency_weights,
    transition_weights,
    uniform_weights,
)


def test_weights_decay_with_age_and_end_after_the_last_events():
    # ages 3, 2, 1, 0; (1 + age) ** -0.5 = 1/2, 1/sqrt(3), 1/sqrt(2), 1
    history = np.array([[4, 5, 6, 7]])
    np.testing.assert_allclose(recency_weights(history, exponent=0.5), [[0.5, 3**-0.5, 2**-0.5, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(recency_weights(history, exponent=0.0, num_last=2), [[0, 0, 1, 1]])


def test_a_repeated_item_counts_once_at_its_newest_place():
    history = np.array([[0, 0, 4, 5, 4, 1], [6, 6, 6, 7, 7, 6]])
    np.testing.assert_array_equal(uniform_weights(history), [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]])


def test_the_standard_weights_look_back_10_and_50_events():
    history = np.arange(2, 62)[None, :]
    assert np.count_nonzero(transition_weights(history)) == 10
    assert np.count_nonzero(ease_weights(history)) == np.count_nonzero(item_knn_weights(history)) == 50
    assert uniform_weights(history).sum() == 60


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_padding_on_the_left_changes_no_weight(history, padding, exponent):
    own = np.array([history])
    padded = np.array([[0] * padding + history])
    weights = recency_weights(padded, exponent=exponent, num_last=4)
    np.testing.assert_array_equal(weights[:, padding:], recency_weights(own, exponent=exponent, num_last=4))
    assert not weights[:, :padding].any()
