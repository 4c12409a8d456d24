"""What is recommended when the model cannot answer: the release's popular items.

Owns that answer. Why it was needed is the gateway's to say.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import islice


class PopularityFallback:
    """Popular items, best first, without those that the query has had.

    Args:
        item_ids: in order of popularity, as the release was exported.
        is_there: whether an item may still be recommended.
    """

    def __init__(self, *, item_ids: Sequence[str], is_there: Callable[[str], bool] = lambda _: True) -> None:
        self._item_ids = tuple(item_ids)
        self._is_there = is_there

    def recommend(self, *, k: int, exclude: Collection[str] = ()) -> list[str]:
        """At most `k` items; fewer when nearly all popular items are excluded."""
        excluded = frozenset(exclude)
        found = (item_id for item_id in self._item_ids if item_id not in excluded and self._is_there(item_id))
        return list(islice(found, max(k, 0)))
