"""The linear embeddings: their inner products are the kernel of EASE, cut to a rank."""

import numpy as np
import pytest

from features.vocab import FIRST
from towers.retrievers.linear import fit_linear

NUM_ROWS = 12


def some_events(num: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    return generator.integers(0, 8, num), generator.integers(FIRST, NUM_ROWS, num)


def kernel(queries: np.ndarray, items: np.ndarray, regularisation: float) -> np.ndarray:
    matrix = np.zeros((8, NUM_ROWS))
    matrix[queries, items] = 1.0
    return matrix.T @ np.linalg.inv(matrix @ matrix.T + regularisation * np.eye(8)) @ matrix


def test_inner_products_are_the_kernel_where_the_width_holds_all_of_it():
    queries, items = some_events()
    fit = fit_linear(query_rows=queries, item_rows=items, num_rows=NUM_ROWS, width=10)
    embeddings = fit.embeddings(2.0)
    np.testing.assert_allclose(embeddings @ embeddings.T, kernel(queries, items, 2.0), atol=1e-5)


def test_a_smaller_width_gives_the_nearest_kernel_of_that_rank():
    queries, items = some_events()
    embeddings = fit_linear(query_rows=queries, item_rows=items, num_rows=NUM_ROWS, width=3).embeddings(2.0)
    values, vectors = np.linalg.eigh(kernel(queries, items, 2.0))
    nearest = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T  # Eckart and Young
    np.testing.assert_allclose(embeddings @ embeddings.T, nearest, atol=1e-5)


def test_both_ways_of_decomposing_agree():
    generator = np.random.default_rng(5)
    queries, items = generator.integers(0, 230, 6000), generator.integers(FIRST, 302, 6000)
    # 230 queries: at most twice the width is dense
    wide, narrow = (
        fit_linear(query_rows=queries, item_rows=items, num_rows=302, width=width).embeddings(5.0) for width in (115, 6)
    )
    np.testing.assert_allclose(narrow @ narrow.T, wide[:, :6] @ wide[:, :6].T, atol=1e-4)


@pytest.mark.parametrize("num_queries", [8, 230])
def test_the_same_events_give_the_same_bits(num_queries):
    generator = np.random.default_rng(7)
    queries, items = generator.integers(0, num_queries, 3000), generator.integers(FIRST, 302, 3000)
    first, *others = (fit_linear(query_rows=queries, item_rows=items, num_rows=302, width=2) for _ in range(8))
    for other in others:
        np.testing.assert_array_equal(first.vectors, other.vectors)


def test_an_item_without_events_and_a_log_without_events_have_zeros():
    fit = fit_linear(query_rows=np.array([0, 0]), item_rows=np.array([FIRST, 0]), num_rows=NUM_ROWS, width=4)
    embeddings = fit.embeddings(1.0)
    assert np.flatnonzero(np.abs(embeddings).sum(axis=1)).tolist() == [FIRST]
    none = np.zeros(0, dtype=np.int64)
    assert not fit_linear(query_rows=none, item_rows=none, num_rows=NUM_ROWS, width=4).embeddings(1.0).any()


def test_settings_that_cannot_be_say_what_was_expected():
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="width must be at least 0; got -1"):
        fit_linear(query_rows=none, item_rows=none, num_rows=NUM_ROWS, width=-1)
    with pytest.raises(ValueError, match="regularisation must be above 0; got 0"):
        fit_linear(query_rows=none, item_rows=none, num_rows=NUM_ROWS, width=1).embeddings(0.0)


def test_a_log_in_which_every_query_had_one_item_of_its_own_is_decomposed_too():
    rows = np.arange(400)
    found = fit_linear(query_rows=rows, item_rows=rows + FIRST, num_rows=400 + FIRST, width=128)
    np.testing.assert_allclose(found.singular_values, np.ones(128), rtol=1e-5)
