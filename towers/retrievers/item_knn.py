"""Item-kNN: items are neighbours when the same queries had both.

Owns the similarity. Serve the table with weights.py: `uniform_weights` as published, `item_knn_weights` for more.
"""

# Shapes: Q queries, V rows of the item table, M items with events.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from towers.retrievers.interactions import interaction_matrix
from towers.retrievers.neighbours import NeighbourTable, strongest_of

IntArray = NDArray[np.integer[Any]]

# Sources whose co-occurrences are held at once: bounds memory on a large catalogue.
BLOCK = 256


def fit_item_knn(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    num_rows: int,
    num_neighbours: int = 50,
    shrinkage: float = 5.0,
) -> NeighbourTable:
    """Cosine of the items' query sets with shrinkage: co-occurrences / (sqrt(n_i * n_j) + shrinkage).

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; order does not matter.
        num_rows: V.
        num_neighbours: targets kept for an item. On MovieLens-100K more add only noise (Recall@100 .54 at 50, .43 at
            200, all of the history alike).
        shrinkage: pulls down similarities that rest on few queries.

    Source: Sarwar et al., WWW 2001; shrinkage after Bell and Koren, ICDM 2007.
    """
    matrix = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    seen = np.flatnonzero(matrix.sum(axis=0))  # [M]
    matrix = matrix[:, seen]
    lengths = np.sqrt(matrix.sum(axis=0))  # [M]
    by_item = matrix.T.tocsr()
    parts = []
    for start in range(0, len(seen), BLOCK):
        block = slice(start, start + BLOCK)
        together = (by_item[block] @ matrix).toarray()  # [<= BLOCK, M]
        similarity = together / (lengths[block, None] * lengths + shrinkage)
        similarity[np.arange(len(similarity)), np.arange(len(seen))[block]] = 0.0
        sources, targets, values = strongest_of(similarity, num_neighbours=num_neighbours)
        parts.append((seen[sources + start], seen[targets], values))
    source_rows, target_rows, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return NeighbourTable.from_pairs(
        source_rows=source_rows,
        target_rows=target_rows,
        values=values,
        num_rows=num_rows,
        num_neighbours=num_neighbours,
    )
