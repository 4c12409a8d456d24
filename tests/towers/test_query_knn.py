import math

import numpy as np
import pytest

from towers.retrievers.query_knn import QueryKnn, fit_query_knn

# Queries 7, 8 and 9: 7 had items 2 and 3, 8 had 2 and 4, 9 had 3 alone.
QUERIES, ROWS = np.array([7, 7, 8, 8, 9]), np.array([2, 3, 2, 4, 3])
# ln(3 queries / those that had the item)
RARITY = {2: math.log(3 / 2), 3: math.log(3 / 2), 4: math.log(3)}


def fitted(num_neighbours: int = 100) -> QueryKnn:
    return fit_query_knn(query_rows=QUERIES, item_rows=ROWS, num_rows=6, num_neighbours=num_neighbours)


def cosine(first: set[int], second: set[int]) -> float:
    lengths = [math.sqrt(sum(RARITY[row] ** 2 for row in rows)) for rows in (first, second)]
    return sum(RARITY[row] ** 2 for row in first & second) / (lengths[0] * lengths[1])


def test_an_item_scores_the_similarities_of_the_queries_that_had_it() -> None:
    (scores,) = fitted().score_all(query_rows=np.array([1]), seen_rows=np.array([[2, 3]]))
    seven, eight, nine = cosine({2, 3}, {2, 3}), cosine({2, 3}, {2, 4}), cosine({2, 3}, {3})
    assert seven == pytest.approx(1.0)
    assert scores.tolist() == pytest.approx([0, 0, seven + eight, seven + nine, eight, 0])


def test_a_query_is_not_its_own_neighbour() -> None:
    (scores,) = fitted().score_all(query_rows=np.array([7]), seen_rows=np.array([[3, 2]]))
    eight, nine = cosine({2, 3}, {2, 4}), cosine({2, 3}, {3})
    assert scores.tolist() == pytest.approx([0, 0, eight, nine, eight, 0])


def test_the_nearest_neighbours_alone_are_asked() -> None:
    (scores,) = fitted(num_neighbours=1).score_all(query_rows=np.array([7]), seen_rows=np.array([[2, 3]]))
    # 9 shares an item that is all it had: 1 / sqrt(2) = .71; 8 has a rare one besides: about .25
    nine = cosine({2, 3}, {3})
    assert nine > cosine({2, 3}, {2, 4})
    assert scores.tolist() == pytest.approx([0, 0, 0, nine, 0, 0])


def test_a_query_without_a_history_has_no_neighbours() -> None:
    scores = fitted().score_all(query_rows=np.array([8, 50]), seen_rows=np.array([[0, 0], [1, 0]]))
    assert not scores.any()


def test_every_query_has_the_same_answer_alone_and_in_company() -> None:
    seen = np.array([[2, 3], [4, 0], [0, 0]])
    queries = np.array([1, 8, 9])
    together = fitted(2).score_all(query_rows=queries, seen_rows=seen)
    for n in range(3):
        alone = fitted(2).score_all(query_rows=queries[n : n + 1], seen_rows=seen[n : n + 1])
        np.testing.assert_allclose(together[n : n + 1], alone)
