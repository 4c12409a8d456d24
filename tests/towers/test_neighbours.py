import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.weights import recency_weights, uniform_weights


def table_of(matrix: NDArray[np.float64], num_neighbours: int = 100) -> NeighbourTable:
    sources, targets = np.nonzero(matrix)
    return NeighbourTable.from_pairs(
        source_rows=sources,
        target_rows=targets,
        values=matrix[sources, targets],
        num_rows=len(matrix),
        num_neighbours=num_neighbours,
    )


def small_matrix() -> NDArray[np.float64]:
    matrix = np.zeros((6, 6))
    matrix[2, 3], matrix[2, 4], matrix[3, 4], matrix[3, 5] = 0.5, 0.25, 1.0, -2.0
    return matrix


def test_a_candidate_scores_the_weighted_sum_over_the_history():
    # item 4 after items 2 and 3, of weights 10 and 1: 10 * 0.25 + 1 * 1.0 = 3.5; item 5: 1 * -2
    table = table_of(small_matrix())
    scores = table.score_candidates(
        history_rows=np.array([[0, 2, 3]]),
        candidate_rows=np.array([[5, 4, 2, 0, 4]]),
        weights=np.array([[0, 10, 1]], dtype=np.float32),
    )
    np.testing.assert_allclose(scores, [[-2, 3.5, 0, 0, 3.5]])


def test_an_item_newer_than_the_table_has_no_neighbours():
    scores = table_of(small_matrix()).score_candidates(
        history_rows=np.array([[2, 900]]),
        candidate_rows=np.array([[3, 900]]),
        weights=np.ones((1, 2), dtype=np.float32),
    )
    np.testing.assert_allclose(scores, [[0.5, 0.0]])


def test_an_empty_history_scores_nothing():
    table = table_of(small_matrix())
    history, weights = np.zeros((1, 3), dtype=np.int64), np.ones((1, 3), dtype=np.float32)
    assert not table.score_candidates(history_rows=history, candidate_rows=np.array([[3, 4]]), weights=weights).any()
    assert not table.score_all(history_rows=history, weights=weights).any()


def test_the_largest_values_are_kept_and_equal_ones_by_row():
    matrix = np.zeros((7, 7))
    matrix[2, 3:7] = [0.5, -0.9, 0.5, 0.1]
    table = table_of(matrix, num_neighbours=2)
    assert table.indices.tolist() == [3, 4]
    np.testing.assert_allclose(table.values, [0.5, -0.9])


@st.composite
def requests(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_rows, num_queries = draw(st.integers(3, 30)), draw(st.integers(1, 4))
    matrix = generator.normal(size=(num_rows, num_rows)) * (generator.random((num_rows, num_rows)) < 0.4)
    matrix[:2], matrix[:, :2] = 0, 0
    history = generator.integers(0, num_rows, size=(num_queries, draw(st.integers(1, 8))))
    candidates = generator.integers(0, num_rows, size=(num_queries, draw(st.integers(1, 12))))
    return matrix, history, candidates, num_rows


@given(requests())
def test_candidates_score_as_in_the_dense_product(case):
    matrix, history, candidates, num_rows = case
    weights = recency_weights(history, exponent=1.0)
    dense = np.zeros((len(history), num_rows))
    for query, rows in enumerate(history):
        for row, weight in zip(rows, weights[query], strict=True):
            dense[query] += weight * matrix[row]
    table = table_of(matrix)
    found_all = table.score_all(history_rows=history, weights=weights)
    found = table.score_candidates(history_rows=history, candidate_rows=candidates, weights=weights)
    np.testing.assert_allclose(found_all, dense, atol=1e-5)
    np.testing.assert_allclose(found, np.take_along_axis(dense, candidates, axis=1), atol=1e-5)


@given(requests())
def test_a_batch_equals_its_rows_one_at_a_time(case):
    matrix, history, candidates, _ = case
    table, weights = table_of(matrix), uniform_weights(history)
    batch = table.score_candidates(history_rows=history, candidate_rows=candidates, weights=weights)
    for query in range(len(history)):
        own = slice(query, query + 1)
        one = table.score_candidates(history_rows=history[own], candidate_rows=candidates[own], weights=weights[own])
        np.testing.assert_array_equal(one, batch[own])


def test_a_saved_table_is_mapped_and_scores_the_same(tmp_path: Path):
    table = table_of(small_matrix())
    table.save(tmp_path / "transitions")
    loaded = NeighbourTable.load(tmp_path / "transitions")
    assert isinstance(loaded.indices.base, np.memmap)
    history, weights = np.array([[2, 3]]), np.ones((1, 2), dtype=np.float32)
    np.testing.assert_array_equal(
        loaded.score_all(history_rows=history, weights=weights), table.score_all(history_rows=history, weights=weights)
    )
    assert sorted(file.name for file in (tmp_path / "transitions").iterdir()) == [
        "indices.npy",
        "indptr.npy",
        "values.npy",
    ]


def test_a_table_without_pairs_can_be_saved_and_loaded(tmp_path: Path):
    table_of(np.zeros((4, 4))).save(tmp_path)
    assert NeighbourTable.load(tmp_path).num_rows == 4


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    table_of(small_matrix()).save(tmp_path)
    np.save(tmp_path / "indptr.npy", np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="indptr must start at 0 and end at 4"):
        NeighbourTable.load(tmp_path)
    np.save(tmp_path / "values.npy", np.zeros(4))
    with pytest.raises(ValueError, match="values float32; got"):
        NeighbourTable.load(tmp_path)


def test_padding_and_unknown_cannot_be_neighbours():
    with pytest.raises(ValueError, match=r"item rows must lie in 2\.\.5"):
        NeighbourTable.from_pairs(
            source_rows=np.array([2]),
            target_rows=np.array([1]),
            values=np.array([1.0]),
            num_rows=6,
            num_neighbours=5,
        )


def test_what_serves_imports_neither_scipy_nor_torch():
    code = (
        "import sys, towers.retrievers.neighbours, towers.retrievers.popularity, towers.retrievers.weights; "
        "import towers.retrievers.fusion; "
        "print(sorted({'scipy', 'torch', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
