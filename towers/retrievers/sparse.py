"""A retriever's answer to one query: scores of some items of the table, while all others score 0.

Owns the order in which a retriever brings its items, the same on every processor. numpy only: it runs while serving.
"""

# Shapes: P items that score, V rows of the item table, M rows that are asked for.

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MANY = 64  # terms are sorted where rows go beyond so many times their number


@dataclass(frozen=True, eq=False)
class SparseScores:
    """Scores by item row, rows ascending."""

    rows: IntArray  # [P]
    scores: FloatArray  # [P]

    @classmethod
    def summed(cls, rows: NDArray[np.integer[Any]], terms: NDArray[np.floating[Any]]) -> Self:
        """Terms added up by row, in the order in which they stand; a row may stand several times.

        Few terms are sorted; many are added into an array as long as the highest row, which is faster (both give the
        same last bit).
        """
        distinct: NDArray[np.integer[Any]] | None = None
        if len(rows) * MANY < rows.max(initial=0):
            distinct, rows = np.unique(rows, return_inverse=True)
        sums: FloatArray = np.bincount(rows, weights=terms).astype(np.float64, copy=False)
        some = np.flatnonzero(sums != 0.0)  # of truth values, which is ten times faster than of numbers
        return cls(rows=some if distinct is None else distinct[some].astype(np.int64), scores=sums[some])

    def best(self, *, k: int, allowed: NDArray[np.bool_]) -> IntArray:
        """The rows of the k highest scores above 0, best first, the lower row first among equals.

        Args:
            k: at most so many.
            allowed: [V] which rows may be brought.
        """
        some = (self.scores > 0) & allowed[self.rows]
        rows, scores = self.rows[some], self.scores[some]
        if k < len(rows):
            # By value, for which of equal scores a partition puts first is nobody's promise.
            near = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if k else np.zeros(0, dtype=np.int64)
            rows, scores = rows[near], scores[near]
        return rows[np.argsort(-scores, kind="stable")[:k]]

    def of(self, rows: IntArray) -> FloatArray:
        """Score of each row [M]."""
        if not len(self.rows):
            return np.zeros(len(rows))
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.scores[places], 0.0)
