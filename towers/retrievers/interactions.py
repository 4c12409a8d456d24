"""(query, item) pairs as a sparse binary matrix, for the retrievers that count co-occurrence.

Owns the matrix. scipy: used at fit, never while serving.
"""

# Shapes: Q queries that have events, V rows of the item table.

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.vocab import FIRST

IntArray = NDArray[np.integer[Any]]


def interaction_matrix(*, query_rows: IntArray, item_rows: IntArray, num_rows: int) -> csr_array[np.float64]:
    """1 where the query had the item, however often: [Q, V].

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; padding and unknown are left out.
        num_rows: V.

    Raises:
        ValueError: lengths differ, or a row is beyond the table.
    """
    if query_rows.shape != item_rows.shape or item_rows.max(initial=0) >= num_rows:
        raise ValueError(
            f"expected equally long rows below {num_rows}; got {query_rows.shape} and {item_rows.shape}, "
            f"highest item row {item_rows.max(initial=0)}"
        )
    known = item_rows >= FIRST
    _, queries = np.unique(query_rows[known], return_inverse=True)
    shape = (int(queries.max(initial=-1)) + 1, num_rows)
    matrix = csr_array((np.ones(len(queries)), (queries, item_rows[known])), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
