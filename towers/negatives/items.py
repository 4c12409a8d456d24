"""What is known of the items and of the queries' events before training begins, as far as negatives need it.

Shapes: R rows of the item table, Q queries, E training events.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.vocab import FIRST, PADDING
from towers.errors import UnfitPieces


@dataclass(frozen=True)
class QueryRows:
    """Items of every query's training events: those of query q are rows[offsets[q] : offsets[q + 1]].

    Attributes:
        offsets: [Q + 1].
        rows: [E] ItemRow.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def of(self, queries: Tensor) -> Tensor:
        """[B] queries -> [B, T] ItemRow of all that each had, PADDING after its last."""
        starts, stops = self.offsets[queries.numpy()], self.offsets[queries.numpy() + 1]
        padded = np.full((len(starts), int((stops - starts).max(initial=0))), PADDING)
        for own, start, stop in zip(padded, starts, stops, strict=True):
            own[: stop - start] = self.rows[start:stop]
        return torch.from_numpy(padded)


@dataclass(frozen=True)
class TrainingItems:
    """The rows of the item table that training is about.

    Attributes:
        counts: [R] training events of each row.
        recommendable: [R] rows that may be recommended.
        of_queries: what each query had; only mined negatives ask for it.
    """

    counts: NDArray[np.int64]
    recommendable: NDArray[np.bool_]
    of_queries: QueryRows | None = None

    def __post_init__(self) -> None:
        if not self.counts[FIRST:].any():
            raise UnfitPieces("no item has a training event, so there is nothing to learn: check the split")

    @property
    def compared(self) -> NDArray[np.int64]:
        """Rows that a target competes with: what was chosen in training and what may be recommended."""
        rows = np.flatnonzero((self.counts > 0) | self.recommendable)
        return rows[rows >= FIRST]  # events of items that the catalogue lacks are counted too
