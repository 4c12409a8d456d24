"""Items in one Faiss structure: finding them, and the true inner product of what was found.

Owns how embeddings and queries enter a structure, and scoring again by stored embeddings. An index is of one part or
of several (search.py). Places, 0 to P - 1, are the ids within the structure.
"""

# Shapes: N queries, P items, D width of the embeddings, W width of the structure.

from dataclasses import dataclass, field, replace
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.gpu import on_gpu
from towers.index.norms import on_sphere, padded

FAISS: Any = faiss  # its stubs lack what is newer
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


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
    """

    rows: IntArray
    structure: Any
    width: int
    effort: Effort = field(default_factory=Effort)
    radius: float | None = None
    stored: FloatArray | None = None
    on_gpu: bool = False

    def __post_init__(self) -> None:
        """Move what is to be on a GPU.

        Raises:
            GpuMissing: there is none, or this Faiss cannot use it.
        """
        object.__setattr__(self, "_searched", on_gpu(self.structure) if self.on_gpu else self.structure)

    def find(self, queries: FloatArray, *, k: int) -> tuple[FloatArray, IntArray]:
        """Scores and ItemRows [N, k or fewer] for queries [N, D], in no order if stored; row -1 where there is none."""
        num = k if self.stored is None else min(k * (self.effort.refine or 1), len(self.rows))
        searched: Any = self._searched  # type: ignore[attr-defined]
        scores, places = searched.search(padded(queries, width=self.structure.d), num, params=self._parameters())
        if self.stored is not None:
            _fill(places)
            FAISS.fvec_inner_products_by_idx(
                *map(faiss.swig_ptr, (scores, queries, self.stored, places)), self.width, *places.shape
            )
        return scores, np.where(places < 0, -1, self.rows[places])

    def with_last(self, values: FloatArray) -> Self:
        """The same items with another last coordinate, [R] by ItemRow.

        What was learned stays: centroids, ranges, codebooks, and a graph's links. Items are encoded anew by them.
        """
        embeddings = self.embeddings()
        embeddings[:, -1] = values[self.rows]
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

    def placed(self, embeddings: FloatArray) -> FloatArray:
        """As they enter the structure, [P, D] -> [P, W]."""
        if self.radius is None:
            return padded(embeddings, width=self.structure.d)
        return on_sphere(embeddings, radius=self.radius, width=self.structure.d)

    def _parameters(self) -> Any:
        if self.effort.lists is not None:
            return FAISS.SearchParametersIVF(nprobe=self.effort.lists)
        if self.effort.beam is not None:
            if self.on_gpu:
                return FAISS.SearchParametersCagra(itopk_size=self.effort.beam)
            return FAISS.SearchParametersHNSW(efSearch=self.effort.beam)
        return None


def _fill(places: IntArray) -> None:
    """Put the first places [N, C], C <= P, that were not found where none was.

    A fast scan passes over items of its lowest score, so of items that are all alike it finds none.
    """
    for own in places:
        if own[-1] < 0:
            own[own < 0] = np.setdiff1d(np.arange(len(own)), own)[: (own < 0).sum()]


def overwrite(flat: Any, embeddings: FloatArray) -> None:
    """Put others [P, W] in the place of what a faiss.IndexFlat holds."""
    faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)[:] = embeddings
