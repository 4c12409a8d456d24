import numpy as np
import pytest

from towers.retrievers.ease import fit_ease
from towers.retrievers.weights import uniform_weights


def random_events(num_items: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    dense = generator.random((40, num_items)) < 0.4
    queries, items = np.nonzero(dense)
    return queries, items + 2


def test_two_items_match_hand_computation():
    # item 2: queries 0, 1, 2; item 3: queries 0, 1. Predicting 3 from 2 alone by ridge regression:
    # weight = x2.x3 / (x2.x2 + lambda) = 2 / (3 + 1), and 2 from 3: 2 / (2 + 1)
    ease = fit_ease(
        query_rows=np.array([0, 1, 2, 0, 1]), item_rows=np.array([2, 2, 2, 3, 3]), num_rows=5, regularisation=1.0
    )
    assert ease.item_weights[2, 3] == pytest.approx(2 / 4)
    assert ease.item_weights[3, 2] == pytest.approx(2 / 3)
    assert np.count_nonzero(ease.item_weights) == 2


def test_every_column_is_the_ridge_regression_on_all_other_items():
    queries, items = random_events()
    ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10, regularisation=3.0)
    matrix = np.zeros((40, 10))
    matrix[queries, items] = 1
    for target in range(2, 10):
        others = [row for row in range(2, 10) if row != target]
        own = matrix[:, others]
        weights = np.linalg.solve(own.T @ own + 3.0 * np.eye(7), own.T @ matrix[:, target])
        np.testing.assert_allclose(ease.item_weights[others, target], weights, atol=1e-6)


def test_scores_are_the_histories_times_the_weights():
    queries, items = random_events()
    ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10)
    history = np.array([[0, 3, 5], [0, 0, 9]])
    scores = ease.score_all(history_rows=history, weights=uniform_weights(history))
    np.testing.assert_allclose(scores, [ease.item_weights[3] + ease.item_weights[5], ease.item_weights[9]], rtol=1e-5)


def test_the_unpruned_table_scores_like_the_dense_weights_and_a_pruned_one_keeps_the_largest():
    queries, items = random_events()
    ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10)
    history = np.array([[0, 3, 5, 9]])
    weights = uniform_weights(history)
    np.testing.assert_allclose(
        ease.neighbours(num_neighbours=10).score_all(history_rows=history, weights=weights),
        ease.score_all(history_rows=history, weights=weights),
        atol=1e-6,
    )
    pruned = ease.neighbours(num_neighbours=2)
    kept = pruned.indices[pruned.indptr[3] : pruned.indptr[4]]
    assert set(kept) == set(np.argsort(-np.abs(ease.item_weights[3]))[:2])


def test_a_catalogue_too_large_for_the_closed_form_is_refused_with_what_it_needs():
    queries, items = random_events()
    with pytest.raises(ValueError, match="EASE over 8 items needs about 0 GB; allowed are 5 items"):
        fit_ease(query_rows=queries, item_rows=items, num_rows=10, max_items=5)


def test_no_regularisation_is_refused():
    with pytest.raises(ValueError, match="regularisation must be above 0"):
        fit_ease(query_rows=np.array([0]), item_rows=np.array([2]), num_rows=3, regularisation=0.0)
