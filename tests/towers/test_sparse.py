import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.sparse import SparseScores

EVERYTHING = np.ones(20, dtype=np.bool_)


def test_terms_of_a_row_are_added_up_and_rows_that_come_to_nothing_are_left_out() -> None:
    summed = SparseScores.summed(np.array([5, 3, 5, 4, 4]), np.array([1.0, 2.0, 0.5, 1.0, -1.0]))
    assert summed.rows.tolist() == [3, 5]
    assert summed.scores.tolist() == [2.0, 1.5]
    assert summed.of(np.array([5, 4, 3, 19])).tolist() == [1.5, 0.0, 2.0, 0.0]


def test_without_terms_every_row_scores_nothing() -> None:
    nothing = SparseScores.summed(np.zeros(0, dtype=np.int64), np.zeros(0))
    assert nothing.of(np.array([2, 3])).tolist() == [0.0, 0.0]
    assert nothing.best(k=3, allowed=EVERYTHING).tolist() == []


@given(rows=st.lists(st.integers(0, 30), max_size=12), seed=st.integers(0, 99))
def test_few_terms_of_high_rows_add_up_as_those_of_low_rows_do(rows: list[int], seed: int) -> None:
    terms = np.random.default_rng(seed).normal(size=len(rows))
    low = SparseScores.summed(np.array(rows, dtype=np.int64), terms)
    high = SparseScores.summed(np.array(rows, dtype=np.int64) + 1_000_000, terms)
    np.testing.assert_array_equal(high.rows, low.rows + 1_000_000)
    np.testing.assert_array_equal(high.scores, low.scores)


@given(
    scores=st.dictionaries(st.integers(2, 19), st.sampled_from([-1.0, 0.5, 1.0, 2.0]), max_size=15),
    k=st.integers(0, 20),
    forbidden=st.sets(st.integers(2, 19)),
)
def test_the_best_are_those_of_a_stable_order_of_all(scores: dict[int, float], k: int, forbidden: set[int]) -> None:
    rows = sorted(scores)
    sparse = SparseScores(rows=np.array(rows, dtype=np.int64), scores=np.array([scores[row] for row in rows]))
    allowed = ~np.isin(np.arange(20), sorted(forbidden))
    expected = sorted((row for row in rows if scores[row] > 0 and row not in forbidden), key=lambda row: -scores[row])
    assert sparse.best(k=k, allowed=allowed).tolist() == expected[:k]
