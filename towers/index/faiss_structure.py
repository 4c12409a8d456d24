"""Items in a Faiss index, on the CPU or, as a copy that answers, on an NVIDIA GPU.

Owns what differs between Faiss's types: settings of a search, and how items are taken out and put in again.
"""

# Shapes: N queries, P items, M of them, W width of the structure.

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, sqrt
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.gpu import on_gpu
from towers.index.passing import Passing, passing_first
from towers.index.passing_lists import PassingLists

FAISS: Any = faiss  # its stubs lack what is newer
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# A graph's ways lead over items that do not pass, so where fewer pass its embeddings are read one by one.
NEARLY_ALL_OF_A_GRAPH = 0.98
# On a GPU Faiss takes no selector. What does not pass is asked for, too, and dropped.
MOST_ON_GPU = 2048  # that one search there brings


@dataclass(frozen=True, eq=False)
class FaissStructure:
    """See Structure.

    Attributes:
        index: on the CPU.
        on_gpu: whether a copy of it on a GPU answers.
        lists: what a filter left of inverted lists; None: no filter, or no lists.
    """

    index: Any
    on_gpu: bool = False
    lists: PassingLists | None = None
    _searched: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Move what is to be on a GPU.

        Raises:
            GpuMissing: there is none, or this Faiss cannot use it.
        """
        object.__setattr__(self, "_searched", on_gpu(self.index) if self.on_gpu else self.index)

    @classmethod
    def flat(cls, embeddings: FloatArray) -> Self:
        """Of embeddings as they are [P, W]."""
        index: Any = faiss.IndexFlatIP(embeddings.shape[1])
        index.add(embeddings)
        return cls(index)

    @property
    def width(self) -> int:
        """See Structure."""
        return int(self.index.d)

    @property
    def num(self) -> int:
        """See Structure."""
        return int(self.index.ntotal)

    @property
    def num_lists(self) -> int:
        """See Structure."""
        return int(getattr(self.index, "nlist", 0))

    @property
    def num_bytes(self) -> int:
        """See Structure."""
        return len(faiss.serialize_index(self.index))

    @property
    def is_exact(self) -> bool:
        """See Structure."""
        return isinstance(self.index, faiss.IndexFlat)

    def under(self, passing: Passing) -> "FaissStructure":
        """See Structure."""
        if self.on_gpu:
            return self
        if hasattr(self.index, "hnsw"):
            return self if passing.share >= NEARLY_ALL_OF_A_GRAPH else FaissStructure(_storage(self.index))
        return replace(self, lists=self._counted(self.index, passing))

    def search(
        self, queries: FloatArray, num: int, *, k: int, effort: Effort, passing: Passing | None
    ) -> tuple[FloatArray, IntArray]:
        """See Structure."""
        if self.lists is not None and passing is not None and effort.lists is not None:
            return self.lists.search(self._searched, queries, num, lists=effort.lists, k=k, passing=passing)

        def first(wanted: int) -> tuple[FloatArray, IntArray]:
            parameters = self._parameters(wanted, effort=effort, passing=passing)
            scores, places = self._searched.search(queries, wanted, params=parameters)
            return scores, places

        if not self.on_gpu or passing is None:
            return first(num)
        return passing_first(first, passing, num=num, most=max(num, min(MOST_ON_GPU, self.num)))

    def _parameters(self, num: int, *, effort: Effort, passing: Passing | None) -> Any:
        """How much is read grows as fewer pass: held recall, docs/log.md.

        Lists that a filter was upon are counted instead (passing_lists.py).
        """
        share = 1.0 if passing is None else passing.share
        if passing is None and not self.on_gpu:
            return _parameters_of(effort, num)
        if passing is not None and effort.scanned is not None:
            first = FAISS.IDSelectorArray(passing.places[: ceil(max(effort.scanned, num) / share)])
            return FAISS.SearchParameters(sel=first)
        chosen = {} if passing is None or self.on_gpu else {"sel": passing.selector}
        if effort.lists is not None:
            return FAISS.SearchParametersIVF(nprobe=ceil(effort.lists / sqrt(share)), **chosen)
        if effort.beam is not None and not self.is_exact:  # of a graph its storage may be all that answers
            if self.on_gpu:
                return FAISS.SearchParametersCagra(itopk_size=max(effort.beam, num))
            return FAISS.SearchParametersHNSW(efSearch=ceil(effort.beam / share**6), **chosen)
        return FAISS.SearchParameters(**chosen) if chosen else None

    def encoding(self, placed: FloatArray, *, passing: Passing | None) -> Self:
        """See Structure; a graph keeps its links."""
        index: Any = faiss.clone_index(self.index)
        if hasattr(index, "hnsw"):
            overwrite(_storage(index), placed)
        else:
            index.reset()
            index.add(placed)
        lists = None if self.lists is None or passing is None else self._counted(index, passing)
        return replace(self, index=index, lists=lists)

    def _counted(self, index: Any, passing: Passing) -> PassingLists | None:
        return PassingLists.of(index, passing) if isinstance(index, faiss.IndexIVF) else None

    def decoded(self, places: IntArray | None) -> FloatArray:
        """See Structure."""
        if places is None:
            return np.array(self.index.reconstruct_n(0, self.num))
        if isinstance(self.index, faiss.IndexIVF):
            return self._in_lists(places)
        return np.array(self.index.reconstruct_batch(places))

    def _in_lists(self, places: IntArray) -> FloatArray:
        """Faiss finds an item in inverted lists by a map that it would have to keep, so all lists are gone through."""
        found = np.empty((len(places), self.width), np.float32)
        target = np.full(self.num, -1, np.int64)
        target[places] = np.arange(len(places))
        lists: Any = self.index.invlists
        for number in range(lists.nlist):
            size = lists.list_size(number)
            if size == 0:
                continue
            to = target[faiss.rev_swig_ptr(lists.get_ids(number), size)]
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)[to >= 0]
            found[to[to >= 0]] = self.index.sq.decode(codes) if hasattr(self.index, "sq") else codes.view(np.float32)
        return found


def _storage(graph: Any) -> Any:
    """The faiss.IndexFlat in a graph; nothing is copied."""
    flat: Any = faiss.downcast_index(graph.storage)
    flat.referenced_objects = [graph]  # as Faiss itself does: the graph frees it with itself
    return flat


@lru_cache(maxsize=1024)
def _parameters_of(effort: Effort, num: int) -> Any:
    """Where all may be found on the CPU; made once, for that takes as long as some searches do."""
    if effort.lists is not None:
        return FAISS.SearchParametersIVF(nprobe=effort.lists)
    if effort.beam is not None:
        return FAISS.SearchParametersHNSW(efSearch=effort.beam)
    if effort.scanned is not None:  # of a flat index it scans these alone, without a look at the others
        return FAISS.SearchParameters(sel=FAISS.IDSelectorRange(0, max(effort.scanned, num)))
    return None


def overwrite(flat: Any, embeddings: FloatArray) -> None:
    """Put others [P, W] in the place of what a faiss.IndexFlat holds."""
    faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)[:] = embeddings
