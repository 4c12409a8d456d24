"""Query-kNN (known as user-kNN): what the queries with the most similar histories had.

Owns the similarity of histories. Needs the histories of all queries, so it is a baseline and nothing that is released.
"""

# Shapes: Q queries that the fit knows, N queries that ask, H items of the longest history, V rows of the item table.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.vocab import FIRST
from towers.retrievers.interactions import interaction_matrix

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QueryKnn:
    """Histories of the known queries, weighted by how rare their items are."""

    queries: IntArray  # [Q] the number of each, ascending
    interactions: csr_array[np.float64]  # [Q, V] 1 where the query had the item
    rarity: NDArray[np.float64]  # [V] ln(Q / queries that had the item); 0 for an item that nobody had
    num_neighbours: int

    def score_all(self, *, query_rows: IntArray, seen_rows: IntArray) -> FloatArray:
        """Sum of the similarities of the neighbours that had the item, [N, V].

        Args:
            query_rows: [N] number of each query that asks, so that none is its own neighbour.
            seen_rows: [N, H] distinct items of each, 0 = padding.
        """
        similarity = self._similarities(seen_rows)
        place = np.searchsorted(self.queries, query_rows)
        known = np.flatnonzero(self.queries[np.minimum(place, len(self.queries) - 1)] == query_rows)
        similarity[known, place[known]] = 0.0
        if self.num_neighbours < len(self.queries):
            # Above the last kept similarity, ties with it left in: all of them are as near.
            last = np.partition(similarity, -self.num_neighbours, axis=1)[:, -self.num_neighbours, None]
            similarity[similarity < last] = 0.0
        scores: FloatArray = (csr_array(similarity) @ self.interactions).toarray().astype(np.float32)
        return scores

    def _similarities(self, seen_rows: IntArray) -> NDArray[np.float64]:
        """Cosine of the weighted histories: [N, Q]."""
        owners, columns = np.nonzero(seen_rows >= FIRST)
        rows = seen_rows[owners, columns]
        shape = (len(seen_rows), len(self.rarity))
        asking = _normalised(csr_array((self.rarity[rows], (owners, rows)), shape=shape))
        known = _normalised(csr_array(self.interactions.multiply(self.rarity[None, :])))
        similarities: NDArray[np.float64] = (asking @ known.T).toarray()
        return similarities


def fit_query_knn(*, query_rows: IntArray, item_rows: IntArray, num_rows: int, num_neighbours: int = 100) -> QueryKnn:
    """Keep the histories.

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; order and repeats do not matter.
        num_rows: V.
        num_neighbours: known queries that each answer is made of.

    Source: Herlocker et al., SIGIR 1999; inverse user frequency after Breese, Heckerman and Kadie, UAI 1998.
    """
    interactions = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    had: NDArray[np.float64] = interactions.sum(axis=0)
    rarity = np.zeros(num_rows)
    rarity[had > 0] = np.log(interactions.shape[0] / had[had > 0])
    return QueryKnn(
        queries=np.unique(query_rows[item_rows >= FIRST]),
        interactions=interactions,
        rarity=rarity,
        num_neighbours=num_neighbours,
    )


def _normalised(matrix: csr_array[np.float64]) -> csr_array[np.float64]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    scaled = csr_array(matrix.multiply(1.0 / np.where(lengths > 0, lengths, 1.0)[:, None]))
    return scaled
