"""Filters that are kept for the next request that has them, and carried on when items change.

Owns which are kept: the last used, as long as their copies of embeddings are no more than an index itself has. Loaded
inside Triton.
"""

# Shapes: V rows of the catalogue.

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.item_filter import ItemFilter
from serving.retrieval import Stage1
from towers.index.ready_filter import ReadyFilter

MOST = 64  # that are kept


@dataclass(frozen=True, eq=False)
class Filtered:
    """What a filter leaves of one state of stage 1.

    Attributes:
        allowed: [V] rows that may be candidates.
        ready: the index with these alone.
    """

    stage1: Stage1
    allowed: NDArray[np.bool_]
    ready: ReadyFilter

    @property
    def num_copied(self) -> int:
        """Of items whose embeddings it holds."""
        both = zip(self.ready.passing, self.ready.base, strict=True)
        copied = sum(len(part.rows) for part, whole in both if len(part.rows) < len(whole.rows))
        return copied + (0 if self.ready.delta is None else len(self.ready.delta.rows))


class ReadyFilters:
    """Filters by what they say; threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[ItemFilter, Filtered] = OrderedDict()
        self._keeping = threading.Lock()

    def of(self, stage1: Stage1, only: ItemFilter) -> Filtered:
        """What a filter leaves of a state.

        Raises:
            InvalidRequest: items have no such category.
        """
        with self._keeping:
            earlier = self._kept.get(only)
        if earlier is not None and earlier.stage1 is stage1:
            found = earlier
        else:
            allowed = only.passing(stage1, np.arange(len(stage1.catalogue)))
            ready = stage1.snapshot.only(allowed, earlier=None if earlier is None else earlier.ready)
            found = Filtered(stage1, allowed, ready)
        with self._keeping:
            self._kept[only] = found
            self._kept.move_to_end(only)
            while len(self._kept) > 1 and self._is_full(len(stage1.index)):
                self._kept.popitem(last=False)
        return found

    def _is_full(self, num_items: int) -> bool:
        return len(self._kept) > MOST or sum(own.num_copied for own in self._kept.values()) > num_items
