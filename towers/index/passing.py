"""Which places of a part may be found: a filter, or what was deleted.

Owns the bitmap, and how a search that takes none is made to heed it.
"""

# Shapes: N queries, P places of a part.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

FAISS: Any = faiss  # its stubs lack selectors
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Passing:
    """A bit for each place.

    Attributes:
        bits: [P / 8, rounded up], the first place is the lowest bit; bits beyond P are 0.
        size: P.
        num: of places that pass.
    """

    bits: NDArray[np.uint8]
    size: int
    num: int

    @classmethod
    def of(cls, passes: NDArray[np.bool_]) -> Self:
        """From whether each place passes [P]."""
        return cls(np.packbits(passes, bitorder="little"), len(passes), int(passes.sum()))

    @property
    def share(self) -> float:
        """Of places that pass, 0 where there are none."""
        return self.num / self.size if self.size else 0.0

    @cached_property
    def selector(self) -> Any:
        """For parameters of a search."""
        return FAISS.IDSelectorBitmap(self.bits)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Whether each place passes [P]."""
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_)

    @cached_property
    def places(self) -> IntArray:
        """That pass, ascending."""
        return np.flatnonzero(self.mask)

    def mask_at(self, places: IntArray) -> NDArray[np.bool_]:
        """Whether these pass, of any shape; -1 does not."""
        known = np.maximum(places, 0)
        is_set: NDArray[np.bool_] = (self.bits[known >> 3] >> (known & 7).astype(np.uint8) & 1).astype(np.bool_)
        return is_set & (places >= 0)

    def without(self, places: IntArray) -> Self:
        """The same but for these, which are distinct and pass; costs a copy of the bits."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, places >> 3, ~(np.uint8(1) << (places & 7).astype(np.uint8)))
        return type(self)(bits, self.size, self.num - len(places))

    def gone_since(self, before: Self | None) -> IntArray:
        """Places that passed before and do not now, ascending; None: all passed."""
        gone = ~self.bits if before is None else before.bits & ~self.bits
        changed = np.flatnonzero(gone)  # few bytes of many, so that only these are unpacked
        at, bit = np.nonzero(np.unpackbits(gone[changed, None], axis=1, bitorder="little"))
        places: IntArray = 8 * changed[at] + bit
        return places[places < self.size]


def passing_first(
    first: Callable[[int], tuple[FloatArray, IntArray]], passing: Passing, *, num: int, most: int
) -> tuple[FloatArray, IntArray]:
    """The first `num` that pass, of a search that knows of no filter; place -1 where `most` held fewer.

    Args:
        first: scores and places [N, M] of the M best, best first; place -1 where there are none.
        passing: places.
        num: wanted.
        most: that `first` can be asked for, at least `num`.
    """
    wanted = min(most, ceil(1.2 * num / passing.share) + 16)  # more than they would be if chance had it
    while True:
        scores, places = first(wanted)
        passes = passing.mask_at(places)
        ended = places[:, -1] < 0  # what was read has no more
        if wanted == most or (ended | (passes.sum(axis=1) >= min(num, passing.num))).all():
            break
        wanted = min(most, 2 * wanted)
    order = np.argsort(~passes, axis=1, kind="stable")[:, :num]
    places = np.take_along_axis(np.where(passes, places, -1), order, axis=1)
    lacking = ((0, 0), (0, num - places.shape[1]))
    return np.pad(np.take_along_axis(scores, order, axis=1), lacking), np.pad(places, lacking, constant_values=-1)
