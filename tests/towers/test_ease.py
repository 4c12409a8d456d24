import logging

import numpy as np
import pytest

from towers.retrievers import ease as ease_module
from towers.retrievers.ease import Ease, EaseOverItems, EaseOverQueries, fit_ease
from towers.retrievers.weights import uniform_weights


def random_events(num_items: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    dense = generator.random((40, num_items)) < 0.4
    queries, items = np.nonzero(dense)
    return queries, items + 2


def all_weights(ease: Ease) -> np.ndarray:
    """[V, V] of source by target."""
    weights = np.zeros((ease.num_rows, ease.num_rows))
    weights[np.ix_(ease.rows, ease.rows)] = ease.item_weights(np.arange(len(ease.rows)))
    return weights


def over_queries(num_items: int = 60) -> tuple[Ease, Ease]:
    """The same model of 40 queries and 60 items in both forms."""
    queries, items = random_events(num_items)
    arguments = {"query_rows": queries, "item_rows": items, "num_rows": num_items + 2, "regularisation": 3.0}
    with pytest.MonkeyPatch.context() as patch:
        items_first = fit_ease(**arguments)  # type: ignore[arg-type]
        patch.setattr(ease_module, "SMALL", 10)
        return items_first, fit_ease(**arguments)  # type: ignore[arg-type]


def test_two_items_match_hand_computation():
    # item 2: queries 0, 1, 2; item 3: queries 0, 1. Predicting 3 from 2 alone by ridge regression:
    # weight = x2.x3 / (x2.x2 + lambda) = 2 / (3 + 1), and 2 from 3: 2 / (2 + 1)
    ease = fit_ease(
        query_rows=np.array([0, 1, 2, 0, 1]), item_rows=np.array([2, 2, 2, 3, 3]), num_rows=5, regularisation=1.0
    )
    weights = all_weights(ease)
    assert weights[2, 3] == pytest.approx(2 / 4)
    assert weights[3, 2] == pytest.approx(2 / 3)
    assert np.count_nonzero(weights) == 2


def test_every_column_is_the_ridge_regression_on_all_other_items():
    queries, items = random_events()
    ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10, regularisation=3.0)
    matrix = np.zeros((40, 10))
    matrix[queries, items] = 1
    for target in range(2, 10):
        others = [row for row in range(2, 10) if row != target]
        own = matrix[:, others]
        weights = np.linalg.solve(own.T @ own + 3.0 * np.eye(7), own.T @ matrix[:, target])
        np.testing.assert_allclose(all_weights(ease)[others, target], weights, atol=1e-6)


def test_scores_are_the_histories_times_the_weights():
    queries, items = random_events()
    ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10)
    history = np.array([[0, 3, 5], [0, 0, 9]])
    scores = ease.score_all(history_rows=history, weights=uniform_weights(history))
    weights = all_weights(ease)
    np.testing.assert_allclose(scores, [weights[3] + weights[5], weights[9]], rtol=1e-5)


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
    assert set(kept) == set(np.argsort(-np.abs(all_weights(ease)[3]))[:2])


def test_where_queries_are_fewer_than_items_the_same_weights_are_solved_over_queries():
    items_first, queries_first = over_queries()
    assert (type(items_first), type(queries_first)) == (EaseOverItems, EaseOverQueries)
    np.testing.assert_allclose(all_weights(queries_first), all_weights(items_first), atol=1e-6)
    history = np.array([[0, 3, 5, 9], [0, 0, 0, 0], [7, 8, 61, 2]])
    np.testing.assert_allclose(
        queries_first.score_all(history_rows=history, weights=uniform_weights(history)),
        items_first.score_all(history_rows=history, weights=uniform_weights(history)),
        atol=1e-6,
    )
    assert not np.diag(all_weights(queries_first)).any()


def test_both_forms_release_the_same_table():
    tables = [ease.neighbours(num_neighbours=5) for ease in over_queries()]
    np.testing.assert_array_equal(tables[0].indptr, tables[1].indptr)
    np.testing.assert_array_equal(tables[0].indices, tables[1].indices)
    np.testing.assert_allclose(tables[0].values, tables[1].values, atol=1e-6)


def test_of_more_items_and_queries_than_fit_the_most_popular_items_are_kept(caplog):
    queries, items = random_events()
    with caplog.at_level(logging.WARNING):
        ease = fit_ease(query_rows=queries, item_rows=items, num_rows=10, max_size=5)
    most = 2 + np.argsort(-np.bincount(items - 2), kind="stable")[:5]
    assert ease.rows.tolist() == sorted(most.tolist())
    assert "EASE: 8 items with events and 38 queries; the 5 items that most queries had are kept" in caplog.text


def test_no_regularisation_is_refused():
    with pytest.raises(ValueError, match="regularisation must be above 0"):
        fit_ease(query_rows=np.array([0]), item_rows=np.array([2]), num_rows=3, regularisation=0.0)
