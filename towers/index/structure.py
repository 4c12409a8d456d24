"""What a part asks of the structure that it finds items in.

Owns the protocol alone; Faiss's answer is in faiss_structure.py, ScaNN's in scann_structure.py. Places, 0 to P - 1, are
the ids within a structure, and what it returns by.
"""

# Shapes: N queries, P items, M of them, W width of the structure.

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.passing import Passing

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class Structure(Protocol):
    """Items in it are never changed; another structure takes its place."""

    @property
    def width(self) -> int:
        """W, at least that of the embeddings."""

    @property
    def num(self) -> int:
        """P."""

    @property
    def num_lists(self) -> int:
        """Of inverted lists; 0: it has none."""

    @property
    def num_bytes(self) -> int:
        """Of memory."""

    @property
    def is_exact(self) -> bool:
        """Whether every item is scored by its embedding as it is."""

    def under(self, passing: Passing) -> "Structure":
        """The same items, made ready for searches under a filter that most of them pass; items may go from it."""

    def search(
        self, queries: FloatArray, num: int, *, k: int, effort: Effort, passing: Passing | None
    ) -> tuple[FloatArray, IntArray]:
        """Scores and places [N, num] of the best items for queries [N, W]; place -1 where there is none.

        Args:
            queries: [N, W].
            num: P at most.
            k: length of the list that is wanted; `num` is more where it is chosen of candidates.
            effort: how much is read.
            passing: what may be found; None: everything. More is read as less passes, for what is sought lies further
                off then.
        """

    def encoding(self, placed: FloatArray, *, passing: Passing | None) -> Self:
        """The same structure with other embeddings [P, W] in the place of its items', encoded by what was learned.

        Args:
            placed: [P, W].
            passing: what it was made ready for, if it was.
        """

    def decoded(self, places: IntArray | None) -> FloatArray:
        """[M, W] as it has them, a copy; ascending places [M], None: all. Not asked where embeddings are stored."""
