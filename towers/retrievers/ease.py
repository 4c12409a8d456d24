"""EASE: a linear model of an item from all others, solved in closed form.

Owns the solution, in whichever of two equal forms is smaller: over items or over queries. `neighbours` makes of it the
sparse table that is released. Serve with weights.py: `uniform_weights` as published, `ease_weights` for more.
"""

# Shapes: N queries, L length of the histories, V rows of the item table, M items with events, Q queries with events,
# B items at once.

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse import csr_array

from towers.retrievers.interactions import interaction_matrix
from towers.retrievers.neighbours import NeighbourTable, strongest_of

logger = logging.getLogger(__name__)

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]

BLOCK = 512
# Up to here the form over items is kept even where queries are fewer: it is solved in seconds, and scores at once.
SMALL = 4_000


@dataclass(frozen=True, eq=False)
class Ease(ABC):
    """Weight of target item j for source item i; the diagonal is 0.

    Attributes:
        rows: [M] ItemRow of each item that has weights, ascending.
        num_rows: V.
    """

    rows: NDArray[np.int64]
    num_rows: int

    @abstractmethod
    def score_items(self, histories: FloatArray) -> FloatArray:
        """Weighted histories over the M items -> scores of the M items: [N, M] -> [N, M]."""

    def score_all(self, *, history_rows: IntArray, weights: FloatArray) -> FloatArray:
        """Weighted sum over the history of every item's weight for it, [N, V]; 0 for an item without events.

        Args:
            history_rows: [N, L] item rows below V, 0 = padding.
            weights: [N, L] of weights.py.
        """
        # One column more for whatever has no weights.
        place_of = np.full(self.num_rows, len(self.rows), dtype=np.int64)
        place_of[self.rows] = np.arange(len(self.rows))
        histories = np.zeros((len(history_rows), len(self.rows) + 1), dtype=np.float32)
        np.add.at(histories, (np.arange(len(history_rows))[:, None], place_of[history_rows]), weights)
        scores = np.zeros((len(history_rows), self.num_rows), dtype=np.float32)
        scores[:, self.rows] = self.score_items(histories[:, :-1])
        return scores

    def item_weights(self, places: IntArray) -> FloatArray:
        """Weights of all M items for some source items: places [B] in `rows` -> [B, M]."""
        sources = np.zeros((len(places), len(self.rows)), dtype=np.float32)
        sources[np.arange(len(places)), places] = 1.0
        weights = self.score_items(sources)
        weights[np.arange(len(places)), places] = 0.0  # which rounding may miss
        return weights

    def neighbours(self, *, num_neighbours: int = 200) -> NeighbourTable:
        """The largest weights of every source, negative ones too, as a sparse table."""
        parts = []
        for start in range(0, len(self.rows), BLOCK):
            places = np.arange(start, min(start + BLOCK, len(self.rows)))
            sources, targets, values = strongest_of(self.item_weights(places), num_neighbours=num_neighbours)
            parts.append((self.rows[places[sources]], self.rows[targets], values))
        source_rows, target_rows, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return NeighbourTable.from_pairs(
            source_rows=source_rows,
            target_rows=target_rows,
            values=values,
            num_rows=self.num_rows,
            num_neighbours=num_neighbours,
        )


@dataclass(frozen=True, eq=False)
class EaseOverItems(Ease):
    """The solution as published: an M x M matrix."""

    matrix: FloatArray  # [M, M] source by target

    def score_items(self, histories: FloatArray) -> FloatArray:
        """[N, M] @ [M, M] -> [N, M]."""
        return histories @ self.matrix

    def item_weights(self, places: IntArray) -> FloatArray:
        """Rows of the matrix."""
        return self.matrix[places]


@dataclass(frozen=True, eq=False)
class EaseOverQueries(Ease):
    """The same solution where queries are fewer than items: nothing of size M x M is ever made.

    With X the interactions and K = (X X^T + lambda I)^-1, the inverse over items is (I - X^T K X) / lambda (Woodbury),
    so weight i -> j is s_ij / (1 - s_jj), where S = X^T K X.
    """

    interactions: csr_array[np.float32]  # X [Q, M]
    kernel: FloatArray  # K [Q, Q]
    diagonal: FloatArray  # s_jj [M]

    def score_items(self, histories: FloatArray) -> FloatArray:
        """Histories times S, less what an item would give to itself, over 1 - s_jj."""
        # Sparse arrays stand on the left, where scipy keeps the other side dense.
        through_queries = self.kernel @ (self.interactions @ histories.T)  # [Q, Q] @ [Q, N]
        smoothed = (self.interactions.T @ through_queries).T  # [N, M]
        scores: FloatArray = (smoothed - histories * self.diagonal) / (1.0 - self.diagonal)
        return scores


def fit_ease(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    num_rows: int,
    regularisation: float = 300.0,
    max_size: int = 12_000,
) -> Ease:
    """Solve for the weights, over items or over queries, whichever are fewer.

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; order does not matter.
        num_rows: V.
        regularisation: lambda of the paper. 300 serves recency weights best on MovieLens-100K, 100 uniform ones (by
            NDCG@10; by Recall@100 both want 300).
        max_size: of the matrix that is inverted, of which two are held in float64: 12,000 needs 2.3 GB. Where there are
            more items and more queries than this, so many items that most queries had are kept; the others weigh 0.

    Raises:
        ValueError: regularisation is not above 0.

    Source: Steck, WWW 2019, "Embarrassingly shallow autoencoders for sparse data".
    """
    if regularisation <= 0:
        raise ValueError(f"regularisation must be above 0; got {regularisation}")
    matrix = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    counts: NDArray[np.float64] = matrix.sum(axis=0)
    seen = np.flatnonzero(counts)  # [M]
    num_queries = matrix.shape[0]
    if min(len(seen), num_queries) > max_size:
        logger.warning(
            "EASE: %d items with events and %d queries; the %d items that most queries had are kept",
            *(len(seen), num_queries, max_size),
        )
        seen = np.sort(seen[np.argsort(-counts[seen], kind="stable")[:max_size]])
    if len(seen) <= max(SMALL, num_queries):
        return _over_items(matrix[:, seen], rows=seen, num_rows=num_rows, regularisation=regularisation)
    return _over_queries(matrix[:, seen], rows=seen, num_rows=num_rows, regularisation=regularisation)


def _over_items(
    matrix: csr_array[np.float64], *, rows: NDArray[np.int64], num_rows: int, regularisation: float
) -> EaseOverItems:
    gram = (matrix.T @ matrix).toarray()  # [M, M]
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, overwrite_a=True, assume_a="pos")
    del gram
    inverse /= -np.diag(inverse).copy()  # in place: there may not be room for a third matrix of this size
    np.fill_diagonal(inverse, 0.0)
    return EaseOverItems(rows=rows, num_rows=num_rows, matrix=inverse.astype(np.float32))


def _over_queries(
    matrix: csr_array[np.float64], *, rows: NDArray[np.int64], num_rows: int, regularisation: float
) -> EaseOverQueries:
    gram = (matrix @ matrix.T).toarray()  # [Q, Q]
    gram[np.diag_indices_from(gram)] += regularisation
    kernel = linalg.inv(gram, overwrite_a=True, assume_a="pos")
    by_item = matrix.T.tocsr()
    diagonal = np.zeros(len(rows))
    for start in range(0, len(rows), BLOCK):
        block: NDArray[np.float64] = by_item[start : start + BLOCK].toarray()
        diagonal[start : start + BLOCK] = (block * (block @ kernel)).sum(axis=1)
    return EaseOverQueries(
        rows=rows,
        num_rows=num_rows,
        interactions=matrix.astype(np.float32).tocsr(),
        kernel=kernel.astype(np.float32),
        diagonal=diagonal.astype(np.float32),
    )
