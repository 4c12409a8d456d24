"""Items in one Faiss structure: finding them, and the true inner product of what was found.

Owns how embeddings and queries enter a structure and leave it, scoring again by stored embeddings, and how a search
passes over items. An index is of one part or of several (search.py). Places, 0 to P - 1, are the ids within the
structure.
"""

# Shapes: N queries, P items, D width of the embeddings, W width of the structure.

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, sqrt
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.gpu import on_gpu
from towers.index.norms import on_sphere, padded
from towers.index.passing import Passing

FAISS: Any = faiss  # its stubs lack what is newer
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Of a filter that this share or less passes a flat copy is made: exact, and faster than what else holds recall.
FEW = 0.25
FEW_IN_A_GRAPH = 0.5  # whose ways lead over items that do not pass
# On a GPU Faiss takes no selector. What does not pass is asked for, too, and dropped; but where half would be dropped,
# a flat copy is.
FEW_ON_GPU = 0.5
MOST_ON_GPU = 2048  # that one search there brings


@dataclass(frozen=True, eq=False)
class Part:
    """Some or all items of an index.

    Attributes:
        rows: [P] ItemRow by place.
        structure: of Faiss, on the CPU.
        width: D.
        effort: of a search.
        radius: of the sphere that items of this structure lie on (norms.py); None: they are in it as they are.
        stored: [P, D] what found items are scored by; None: the structure's own scores are the result.
        on_gpu: whether a copy of the structure on a GPU answers.
        passing: places that may be found; None: all.
    """

    rows: IntArray
    structure: Any
    width: int
    effort: Effort = field(default_factory=Effort)
    radius: float | None = None
    stored: FloatArray | None = None
    on_gpu: bool = False
    passing: Passing | None = None
    _searched: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Move what is to be on a GPU.

        Raises:
            GpuMissing: there is none, or this Faiss cannot use it.
        """
        object.__setattr__(self, "_searched", on_gpu(self.structure) if self.on_gpu else self.structure)

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
        return isinstance(self.structure, faiss.IndexFlat)

    @property
    def num_bytes(self) -> int:
        """Of memory: rows, structure and stored embeddings."""
        stored = 0 if self.stored is None else self.stored.nbytes
        return int(self.rows.nbytes + len(faiss.serialize_index(self.structure)) + stored)

    def find(self, queries: FloatArray, *, k: int) -> tuple[FloatArray, IntArray]:
        """Scores and ItemRows [N, k or fewer] for queries [N, D], in no order if stored; row -1 where there is none."""
        num = k if self.stored is None else min(k * (self.effort.refine or 1), self.num)
        if self.num == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores: Any
        places: Any
        scores, places = self._found(padded(queries, width=self.structure.d), num)
        if self.stored is not None:
            _fill(places, passing=self.passing)
            FAISS.fvec_inner_products_by_idx(
                *map(faiss.swig_ptr, (scores, queries, self.stored, places)), self.width, *places.shape
            )
        return scores, np.where(places < 0, -1, self.rows[places])

    def _found(self, queries: FloatArray, num: int) -> tuple[FloatArray, IntArray]:
        """The structure's scores and places [N, num] for queries [N, W]; place -1 where there is none."""
        searched = self._searched
        if not self.on_gpu or self.passing is None:
            scores, places = searched.search(queries, num, params=self._parameters(num))
            return scores, places

        def first(wanted: int) -> tuple[FloatArray, IntArray]:
            scores, places = searched.search(queries, wanted, params=self._parameters(wanted))
            return scores, places

        return passing_first(first, self.passing, num=num, most=max(num, min(MOST_ON_GPU, len(self.rows))))

    def only(self, passes: NDArray[np.bool_]) -> Self:
        """The same items but for those whose place does not pass [P]; a flat copy where few are left."""
        own = Passing.of(passes if self.passing is None else passes & self.passing.mask)
        few = FEW_IN_A_GRAPH if hasattr(self.structure, "hnsw") else FEW
        if own.share > (FEW_ON_GPU if self.on_gpu else few):
            return self._with(own)
        flat: Any = faiss.IndexFlatIP(self.width)
        flat.add(self.embeddings_at(own.places))
        return replace(
            self,
            rows=self.rows[own.places],
            structure=flat,
            effort=Effort(),
            radius=None,
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
        other = copy.copy(self)  # rather than `replace`: what is on a GPU is shared
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
        structure: Any = faiss.clone_index(self.structure)
        if hasattr(structure, "hnsw"):
            flat: Any = faiss.downcast_index(structure.storage)
            overwrite(flat, self.placed(embeddings))
        else:
            structure.reset()
            structure.add(self.placed(embeddings))
        return replace(self, structure=structure, stored=None if self.stored is None else embeddings)

    def embeddings(self) -> FloatArray:
        """[P, D] as stored, or as the structure has them: a copy."""
        if self.stored is not None:
            return self.stored.copy()
        return np.array(self.structure.reconstruct_n(0, len(self.rows))[:, : self.width])

    def items(self) -> tuple[FloatArray, IntArray]:
        """Embeddings and ItemRows of those that may be found."""
        if self.passing is None:
            return self.embeddings(), self.rows
        return self.embeddings_at(self.passing.places), self.rows[self.passing.places]

    def embeddings_at(self, places: IntArray) -> FloatArray:
        """[M, D] of ascending places [M], as stored or as the structure has them: a copy."""
        if self.stored is not None:
            return self.stored[places]
        if isinstance(self.structure, faiss.IndexIVF):
            return self._in_lists(places)
        return np.ascontiguousarray(self.structure.reconstruct_batch(places)[:, : self.width])

    def _in_lists(self, places: IntArray) -> FloatArray:
        """Faiss finds an item in inverted lists by a map that it would have to keep, so all lists are gone through."""
        found = np.empty((len(places), self.width), np.float32)
        target = np.full(len(self.rows), -1, np.int64)
        target[places] = np.arange(len(places))
        lists: Any = self.structure.invlists
        for number in range(lists.nlist):
            size = lists.list_size(number)
            if size == 0:
                continue
            to = target[faiss.rev_swig_ptr(lists.get_ids(number), size)]
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)[to >= 0]
            decoded = self.structure.sq.decode(codes) if hasattr(self.structure, "sq") else codes.view(np.float32)
            found[to[to >= 0]] = decoded[:, : self.width]
        return found

    def placed(self, embeddings: FloatArray) -> FloatArray:
        """As they enter the structure, [P, D] -> [P, W]."""
        if self.radius is None:
            return padded(embeddings, width=self.structure.d)
        return on_sphere(embeddings, radius=self.radius, width=self.structure.d)

    def _parameters(self, num: int) -> Any:
        """How much is read grows as fewer pass, for what is sought lies further off then: held recall, docs/log.md."""
        share = 1.0 if self.passing is None else self.passing.share
        chosen = {} if self.passing is None or self.on_gpu else {"sel": self.passing.selector}
        if self.effort.lists is not None:
            return FAISS.SearchParametersIVF(nprobe=ceil(self.effort.lists / sqrt(share)), **chosen)
        if self.effort.beam is not None:
            if self.on_gpu:
                return FAISS.SearchParametersCagra(itopk_size=max(self.effort.beam, num))
            return FAISS.SearchParametersHNSW(efSearch=ceil(self.effort.beam / share**2), **chosen)
        return FAISS.SearchParameters(**chosen) if chosen else None


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
        if wanted == most or (passes.sum(axis=1) >= min(num, passing.num)).all():
            break
        wanted = min(most, 2 * wanted)
    order = np.argsort(~passes, axis=1, kind="stable")[:, :num]
    places = np.take_along_axis(np.where(passes, places, -1), order, axis=1)
    lacking = ((0, 0), (0, num - places.shape[1]))
    return np.pad(np.take_along_axis(scores, order, axis=1), lacking), np.pad(places, lacking, constant_values=-1)


def _fill(places: IntArray, *, passing: Passing | None) -> None:
    """Put the first places [N, C] that were not found where none was, of all or of those that pass: C at least.

    A fast scan passes over items of its lowest score, so of items that are all alike it finds none.
    """
    for own in places:
        if own[-1] < 0:
            chosen = np.arange(len(own)) if passing is None else passing.places[: len(own)]
            own[own < 0] = np.setdiff1d(chosen, own)[: (own < 0).sum()]


def overwrite(flat: Any, embeddings: FloatArray) -> None:
    """Put others [P, W] in the place of what a faiss.IndexFlat holds."""
    faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)[:] = embeddings
