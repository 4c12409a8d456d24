"""Items in one structure: finding them, and the true inner product of what was found.

Owns how embeddings and queries enter a structure (structure.py) and leave it, scoring again by stored embeddings, and
which items a search passes over. An index is of one part or of several (search.py).
"""

# Shapes: N queries, P items, D width of the embeddings, W width of the structure.

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure
from towers.index.norms import padded, placed
from towers.index.passing import Passing
from towers.index.structure import Structure

FAISS: Any = faiss  # its stubs lack what is newer
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Of a filter that this share or less passes a flat copy is made: exact, and faster than what else holds recall.
FEW = 0.5


@dataclass(frozen=True, eq=False)
class Part:
    """Some or all items of an index.

    Attributes:
        rows: [P] ItemRow by place.
        structure: that they are found in.
        width: D.
        effort: of a search.
        radius: of the sphere that items of this structure lie on (norms.py); None: they are in it as they are.
        axes: [S, W] that items, put on the sphere and padded to S, and queries are turned by (principal.py); None: S is
            W, and nothing is turned.
        stored: [P, D] what found items are scored by; None: the structure's own scores are the result.
        passing: places that may be found; None: all.
    """

    rows: IntArray
    structure: Structure
    width: int
    effort: Effort = field(default_factory=Effort)
    radius: float | None = None
    axes: FloatArray | None = None
    stored: FloatArray | None = None
    passing: Passing | None = None

    @property
    def num(self) -> int:
        """Of items that may be found."""
        return len(self.rows) if self.passing is None else self.passing.num

    @cached_property
    def last_row(self) -> int:
        """The largest ItemRow of all its places; 0 where it has none."""
        return int(self.rows.max(initial=0))

    @property
    def is_exact(self) -> bool:
        """Whether every item is scored by its embedding as it is."""
        return self.structure.is_exact and self.effort.scanned is None

    @property
    def num_bytes(self) -> int:
        """Of memory: rows, structure, axes and stored embeddings."""
        arrays = sum(own.nbytes for own in (self.rows, self.axes, self.stored) if own is not None)
        return int(arrays + self.structure.num_bytes)

    def find(self, queries: FloatArray, *, k: int) -> tuple[FloatArray, IntArray]:
        """Scores and ItemRows [N, k or fewer] for queries [N, D], best first; row -1 where there is none."""
        num = k if self.stored is None else min(ceil(k * (self.effort.refine or 1)), self.num)
        if self.num == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        turned = self._turned(padded(queries, width=self._padded_width))
        scores, places = self.structure.search(turned, num, k=k, effort=self.effort, passing=self.passing)
        if self.stored is not None:
            _fill(places, passing=self.passing)
            pointers = [FAISS.swig_ptr(array) for array in (scores, queries, self.stored, places)]
            FAISS.fvec_inner_products_by_idx(*pointers, self.width, *places.shape)
            scores, places = best_first(scores, places, k=k)
            return scores, self.rows[places]
        return scores, np.where(places < 0, -1, self.rows[places])

    def only(self, passes: NDArray[np.bool_]) -> Self:
        """The same items but for those whose place does not pass [P]; a flat copy where few are left."""
        own = Passing.of(passes if self.passing is None else passes & self.passing.mask)
        if own.share > FEW:
            return replace(self, structure=self.structure.under(own), passing=own)
        flat = FaissStructure.flat(self.embeddings_at(own.places))
        return replace(
            self,
            rows=self.rows[own.places],
            structure=flat,
            effort=Effort(),
            radius=None,
            axes=None,
            stored=None,
            passing=None,
        )

    def without(self, places: IntArray) -> Self:
        """The same items but for these places, which are distinct and may be found; costs P / 8 bytes."""
        if len(places) == 0:
            return self
        own = self.passing or Passing.of(np.ones(len(self.rows), np.bool_))
        return self._with(own.without(places))

    def _with(self, passing: Passing) -> Self:
        other = copy.copy(self)  # rather than `replace`: what was found out about the rows goes along
        object.__setattr__(other, "passing", passing)
        return other

    def places_of(self, rows: IntArray) -> IntArray:
        """Where items that may be found stand [M]; -1 for others."""
        order, ordered = self._by_row
        if len(ordered) == 0:
            return np.full(len(rows), -1)
        at = np.minimum(np.searchsorted(ordered, rows), len(ordered) - 1)
        places = np.where(ordered[at] == rows, order[at], -1)
        return places if self.passing is None else np.where(self.passing.mask_at(places), places, -1)

    @cached_property
    def _by_row(self) -> tuple[IntArray, IntArray]:
        order = np.argsort(self.rows, kind="stable")
        return order, self.rows[order]

    def with_last(self, values: FloatArray) -> Self:
        """The same items with another last coordinate, [R] by ItemRow; rows that `values` does not reach keep theirs.

        What was learned stays: centroids, ranges, codebooks, and a graph's links. Items are encoded anew by them.
        """
        embeddings = self.embeddings()
        known = self.rows < len(values)
        embeddings[known, -1] = values[self.rows[known]]
        structure = self.structure.encoding(self.placed(embeddings), passing=self.passing)
        return replace(self, structure=structure, stored=None if self.stored is None else embeddings)

    def embeddings(self) -> FloatArray:
        """[P, D] as stored, or as the structure has them: a copy."""
        if self.stored is not None:
            return self.stored.copy()
        return np.array(self.structure.decoded(None)[:, : self.width])

    def items(self) -> tuple[FloatArray, IntArray]:
        """Embeddings and ItemRows of those that may be found."""
        if self.passing is None:
            return self.embeddings(), self.rows
        return self.embeddings_at(self.passing.places), self.rows[self.passing.places]

    def embeddings_at(self, places: IntArray) -> FloatArray:
        """[M, D] of ascending places [M], as stored or as the structure has them: a copy."""
        if self.stored is not None:
            return self.stored[places]
        return np.ascontiguousarray(self.structure.decoded(places)[:, : self.width])

    def placed(self, embeddings: FloatArray) -> FloatArray:
        """As they enter the structure, [P, D] -> [P, W]."""
        return self._turned(placed(embeddings, radius=self.radius, width=self._padded_width))

    @property
    def _padded_width(self) -> int:
        return self.structure.width if self.axes is None else len(self.axes)

    def _turned(self, padded_ones: FloatArray) -> FloatArray:
        return padded_ones if self.axes is None else padded_ones @ self.axes


def best_first(scores: FloatArray, found: IntArray, *, k: int) -> tuple[FloatArray, IntArray]:
    """The k highest scores of [N, C], and what they belong to: [N, k], or [N, C] in order if there are fewer."""
    order = (-scores).argsort(axis=1, kind="stable")[:, :k]
    if len(scores) > 1:
        order += np.arange(len(scores))[:, None] * scores.shape[1]
    return scores.take(order), found.take(order)  # of all as one row: quicker than by two axes


def _fill(places: IntArray, *, passing: Passing | None) -> None:
    """Put the first places [N, C] that were not found where none was, of all or of those that pass: C at least.

    A fast scan passes over items of its lowest score, so of items that are all alike it finds none.
    """
    for own in places:
        if own[-1] < 0:
            chosen = np.arange(len(own)) if passing is None else passing.places[: len(own)]
            own[own < 0] = np.setdiff1d(chosen, own)[: (own < 0).sum()]
