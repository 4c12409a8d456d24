"""Items that had no event when the index was built, and what stands in the index for them.

Owns where they differ from all others: their learned embedding is what content says of it (content.py), and their bias
is a constant beside what their own events have come to be worth since. Their linear embedding stands among the others,
for it counts in histories, too. numpy only: it runs while serving.
"""

# Shapes: M new items, D width of the learned embeddings in the index, P items, R rows of the item table, W width of the
# index.

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class NewItems:
    """What is new.

    Attributes:
        rows: [M] ItemRow, ascending.
        learned: [M, D].
        bias: of each of them, added to what the blend makes of its events: none yet are worth nothing.
    """

    rows: IntArray
    learned: FloatArray
    bias: float

    @classmethod
    def none(cls) -> Self:
        """Every item is known."""
        return cls(rows=np.zeros(0, dtype=np.int64), learned=np.zeros((0, 0), dtype=np.float32), bias=0.0)

    def write(self, path: Path) -> None:
        """Write an npz file."""
        np.savez(path, rows=self.rows, learned=self.learned, bias=np.float32(self.bias))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse of `write`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(rows=arrays["rows"], learned=arrays["learned"], bias=float(arrays["bias"]))

    def placed(self, embeddings: FloatArray, rows: IntArray) -> FloatArray:
        """Blended embeddings [P, W] of items `rows` [P], with what is said here of those that are new."""
        if not len(self.rows):
            return embeddings
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        is_new = self.rows[places] == rows
        result = embeddings.copy()
        result[is_new, : self.learned.shape[1]] = self.learned[places[is_new]]
        result[is_new, -1] += np.float32(self.bias)
        return result

    def biased(self, bias: FloatArray) -> FloatArray:
        """Bias [R] of all items as of a tick, with that of the new ones."""
        result = bias.copy()
        result[self.rows] += np.float32(self.bias)
        return result

    def and_these(self, rows: IntArray, learned: FloatArray) -> Self:
        """These rows [P], distinct, and what stands for them [P, D], in place of what was said of them."""
        kept = ~np.isin(self.rows, rows)
        rows = np.concatenate([self.rows[kept], rows])
        learned = np.concatenate([self.learned[kept], learned]) if kept.any() else learned
        order = np.argsort(rows)
        return replace(self, rows=rows[order], learned=learned[order])
