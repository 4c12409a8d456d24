import numpy as np
import pytest

from towers.retrievers import item_knn
from towers.retrievers.item_knn import fit_item_knn

# item 2: queries 0, 1, 2; item 3: queries 0, 1; item 4: query 2; item 5: query 3 alone
QUERIES = np.array([0, 1, 2, 0, 1, 2, 3])
ITEMS = np.array([2, 2, 2, 3, 3, 4, 5])


def test_similarity_is_the_shrunk_cosine():
    # 2 and 3 share two queries: 2 / (sqrt(3 * 2) + 1); 2 and 4 share one: 1 / (sqrt(3 * 1) + 1)
    table = fit_item_knn(query_rows=QUERIES, item_rows=ITEMS, num_rows=6, shrinkage=1.0)
    assert table.indptr.tolist() == [0, 0, 0, 2, 3, 4, 4]
    assert table.indices.tolist() == [3, 4, 2, 2]
    close, far = 2 / (6**0.5 + 1), 1 / (3**0.5 + 1)
    np.testing.assert_allclose(table.values, [close, far, close, far], rtol=1e-6)


def test_a_repeated_event_counts_once():
    once = fit_item_knn(query_rows=QUERIES, item_rows=ITEMS, num_rows=6)
    twice = fit_item_knn(query_rows=np.tile(QUERIES, 2), item_rows=np.tile(ITEMS, 2), num_rows=6)
    np.testing.assert_array_equal(once.values, twice.values)


def test_only_the_nearest_are_kept():
    table = fit_item_knn(query_rows=QUERIES, item_rows=ITEMS, num_rows=6, num_neighbours=1, shrinkage=1.0)
    assert table.indices.tolist() == [3, 2, 2]


def test_a_catalogue_of_several_blocks_gives_the_same_as_the_dense_cosine():
    num_rows = item_knn.BLOCK + 50
    generator = np.random.default_rng(0)
    # few distinct items spread over both sides of the block border
    chosen = np.concatenate([np.arange(2, 20), np.arange(item_knn.BLOCK - 5, num_rows)])
    queries, items = generator.integers(0, 30, size=600), generator.choice(chosen, size=600)
    table = fit_item_knn(query_rows=queries, item_rows=items, num_rows=num_rows, num_neighbours=1000, shrinkage=0.5)
    dense = np.zeros((30, num_rows))
    dense[queries, items] = 1
    dense = dense[:, chosen]
    together, lengths = dense.T @ dense, np.sqrt(dense.sum(axis=0))
    expected = together / (np.outer(lengths, lengths) + 0.5)
    np.fill_diagonal(expected, 0)
    histories = chosen[:, None]
    found = table.score_all(history_rows=histories, weights=np.ones(histories.shape, dtype=np.float32))
    np.testing.assert_allclose(found[:, chosen], expected, atol=1e-6)


def test_rows_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match=r"rows below 5.*highest item row 5"):
        fit_item_knn(query_rows=QUERIES, item_rows=ITEMS, num_rows=5)
