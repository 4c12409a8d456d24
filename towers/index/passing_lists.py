"""Which inverted lists are read under a filter: the nearest, until enough of what passes stands in them.

Owns the count. A number of lists would not do: what passes lies together, as a category does, so the lists nearest to a
query may hold all of it or nothing.
"""

# Shapes: N queries, W width of the structure, L inverted lists, P places.

from dataclasses import dataclass
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.passing import Passing

FAISS: Any = faiss  # its stubs lack search_preassigned
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Items that pass are read at least, times k. What a tuner found to be enough may lean on another part, such as the
# heaviest apart, of which the filter leaves less: held recall, docs/log.md.
LEAST = 50


@dataclass(frozen=True, eq=False)
class PassingLists:
    """Items by list.

    Attributes:
        sizes: [L] of all.
        passing: [L] of those that passed when the filter was made; those that went since are few.
    """

    sizes: IntArray
    passing: IntArray

    @classmethod
    def of(cls, structure: Any, passing: Passing) -> Self:
        """Count them; goes through all lists once."""
        lists: Any = structure.invlists
        sizes = np.array([lists.list_size(number) for number in range(lists.nlist)])
        counts = [
            int(passing.mask_at(faiss.rev_swig_ptr(lists.get_ids(number), int(size))).sum()) if size else 0
            for number, size in enumerate(sizes)
        ]
        return cls(sizes, np.array(counts))

    def search(
        self, structure: Any, queries: FloatArray, num: int, *, lists: int, k: int, passing: Passing
    ) -> tuple[FloatArray, IntArray]:
        """Scores and places [N, num] for queries [N, W]; place -1 where there is none.

        Lists are read until as many items that pass were seen as `lists` lists have of all, LEAST * k at least.
        """
        distances, nearest = structure.quantizer.search(queries, len(self.sizes))  # [N, L]
        counts = self.passing[nearest]
        before = np.cumsum(counts, axis=1) - counts
        unfiltered = self.sizes[nearest[:, :lists]].sum(axis=1, keepdims=True)
        is_read = (counts > 0) & (before < np.maximum(unfiltered, LEAST * k))
        most = max(int(is_read.sum(axis=1).max()), 1)
        order = np.argsort(~is_read, axis=1, kind="stable")[:, :most]
        nearest = np.where(np.take_along_axis(is_read, order, 1), np.take_along_axis(nearest, order, 1), -1)
        distances = np.ascontiguousarray(np.take_along_axis(distances, order, 1))
        scores = np.empty((len(queries), num), np.float32)
        places = np.empty((len(queries), num), np.int64)
        given, assigned, far, found, at = map(faiss.swig_ptr, (queries, nearest, distances, scores, places))
        parameters = FAISS.SearchParametersIVF(nprobe=most, sel=passing.selector)
        structure.search_preassigned_c(len(queries), given, num, assigned, far, found, at, False, parameters)
        return scores, places
