"""EASE: a linear model of an item from all others, solved in closed form.

Owns the solution. Dense, so for catalogues of tens of thousands at most; `neighbours` makes of it the sparse table that
is released. Serve with weights.py: `uniform_weights` as published, `ease_weights` for more.
"""

# Shapes: N queries, L length of the histories, V rows of the item table, M items with events.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from towers.retrievers.interactions import interaction_matrix
from towers.retrievers.neighbours import NeighbourTable

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ease:
    """Weight of target item j for source item i; the diagonal is 0."""

    item_weights: FloatArray  # [V, V]

    def score_all(self, *, history_rows: IntArray, weights: FloatArray) -> FloatArray:
        """Weighted sum over the history of every item's weight for it, [N, V].

        Args:
            history_rows: [N, L] item rows below V, 0 = padding.
            weights: [N, L] of weights.py.
        """
        num_rows = len(self.item_weights)
        histories = np.zeros((len(history_rows), num_rows), dtype=np.float32)
        np.add.at(histories, (np.arange(len(history_rows))[:, None], history_rows), weights)
        return histories @ self.item_weights  # [N, V] @ [V, V] -> [N, V]

    def neighbours(self, *, num_neighbours: int = 200) -> NeighbourTable:
        """The largest weights of every source, negative ones too, as a sparse table."""
        sources, targets = np.nonzero(self.item_weights)
        return NeighbourTable.from_pairs(
            source_rows=sources,
            target_rows=targets,
            values=self.item_weights[sources, targets],
            num_rows=len(self.item_weights),
            num_neighbours=num_neighbours,
        )


def fit_ease(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    num_rows: int,
    regularisation: float = 300.0,
    max_items: int = 15_000,
) -> Ease:
    """Solve for the weights.

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; order does not matter.
        num_rows: V.
        regularisation: lambda of the paper. 300 serves recency weights best on MovieLens-100K, 100 uniform ones (by
            NDCG@10; by Recall@100 both want 300).
        max_items: refuse more items with events than this; the solution holds three M x M float64 matrices.

    Raises:
        ValueError: more than `max_items` items, or regularisation is not above 0.

    Source: Steck, WWW 2019, "Embarrassingly shallow autoencoders for sparse data".
    """
    if regularisation <= 0:
        raise ValueError(f"regularisation must be above 0; got {regularisation}")
    matrix = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    seen = np.flatnonzero(matrix.sum(axis=0))  # [M]
    if len(seen) > max_items:
        raise ValueError(
            f"EASE over {len(seen)} items needs about {3 * 8 * len(seen) ** 2 / 1e9:.0f} GB; allowed are {max_items} "
            "items. Use item_knn, or raise max_items if the memory is there"
        )
    matrix = matrix[:, seen]
    gram = (matrix.T @ matrix).toarray()  # [M, M]
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, overwrite_a=True, assume_a="pos")
    solution = inverse / -np.diag(inverse)[None, :]
    np.fill_diagonal(solution, 0.0)
    item_weights = np.zeros((num_rows, num_rows), dtype=np.float32)
    item_weights[np.ix_(seen, seen)] = solution
    return Ease(item_weights=item_weights)
