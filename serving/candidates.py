"""What stage 1 brings for each query: rows, the score and the place by each retriever.

Owns their layout and what stands where there are fewer. Loaded inside Triton.
"""

# Shapes: N queries, C candidates, K retrievers.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.vocab import PADDING

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """C candidates for each of N queries, in the order of retrieval.

    Attributes:
        rows: [N, C] ItemRow; PADDING where there are fewer.
        scores: [N, C, 1 + K] fused and of each retriever, in the order of `score_names`, whoever brought the candidate;
            0 at padding.
        ranks: [N, C, 1 + K] place in the whole list and among what each retriever brought; 0 where it did not bring it.
    """

    rows: IntArray
    scores: FloatArray
    ranks: IntArray

    @classmethod
    def none(cls, num: int, *, num_candidates: int, num_scores: int) -> "Candidates":
        """Padding alone for `num` queries."""
        shape = (num, num_candidates, num_scores)
        return cls(
            rows=np.full(shape[:2], PADDING, dtype=np.int64),
            scores=np.zeros(shape, dtype=np.float32),
            ranks=np.zeros(shape, dtype=np.int64),
        )

    def take(self, places: IntArray | slice) -> "Candidates":
        """Those of some of the queries."""
        return Candidates(rows=self.rows[places], scores=self.scores[places], ranks=self.ranks[places])

    def first(self, num: int) -> "Candidates":
        """The best `num` of each query."""
        return Candidates(rows=self.rows[:, :num], scores=self.scores[:, :num], ranks=self.ranks[:, :num])
