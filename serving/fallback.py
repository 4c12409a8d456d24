"""What is recommended when the model cannot answer: the release's popular items.

Owns that answer. Why it was needed is the gateway's to say.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

from serving.item_filter import ItemFilter

Recommends = Callable[[Sequence[str], ItemFilter | None], NDArray[np.bool_]]


class PopularityFallback:
    """Popular items, best first, without those that the query has had.

    Args:
        item_ids: in order of popularity, as the release was exported.
        recommends: whether each item may be recommended now, and passes a filter; None: all.
    """

    def __init__(self, *, item_ids: Sequence[str], recommends: Recommends | None = None) -> None:
        self._item_ids = tuple(item_ids)
        self._recommends = recommends

    def recommend(self, *, k: int, exclude: Collection[str] = (), only: ItemFilter | None = None) -> list[str]:
        """At most `k` items; fewer when nearly all popular items are excluded, or do not pass the filter."""
        excluded = frozenset(exclude)
        passes: Iterable[bool] = repeat(True)
        if self._recommends is not None:
            passes = self._recommends(self._item_ids, only).tolist()
        found = (own for own, there in zip(self._item_ids, passes, strict=False) if there and own not in excluded)
        return list(islice(found, max(k, 0)))
