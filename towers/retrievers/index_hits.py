"""The towers as a retriever: what the index found for a query, and the inner product of any item with it.

Owns nothing of the search, which is towers/index/'s, nor of the embeddings. numpy only: it runs while serving.
"""

# Shapes: D embedding width, H rows found, P rows that are asked for.

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class IndexHits:
    """One query's."""

    found_rows: IntArray  # [H] best first; padding is not allowed, and so dropped
    embeddings: Callable[[IntArray], FloatArray]  # of rows [P] -> [P, D]
    query_embedding: FloatArray  # [D]

    def best(self, *, k: int, allowed: NDArray[np.bool_]) -> IntArray:
        """The first k found rows that are allowed."""
        return self.found_rows[allowed[self.found_rows]][:k]

    def of(self, rows: IntArray) -> NDArray[np.float64]:
        """Inner product of each row [P], whether it was found or not; in fp64, so that no order of adding shows."""
        embedded = self.embeddings(rows).astype(np.float64)
        products: NDArray[np.float64] = embedded @ self.query_embedding.astype(np.float64)
        return products
