"""What is recommended when the model cannot answer: the release's popular items.

Owns that answer. Why it was needed is the gateway's to say.
"""

from collections.abc import Collection, Sequence
from itertools import islice


class PopularityFallback:
    """Popular items, best first, without those that the query has had.

    Args:
        item_ids: in order of popularity, as the release was exported.
    """

    def __init__(self, *, item_ids: Sequence[str]) -> None:
        self._item_ids = tuple(item_ids)

    def recommend(self, *, k: int, exclude: Collection[str] = ()) -> list[str]:
        """At most `k` items; fewer when nearly all popular items are excluded."""
        excluded = frozenset(exclude)
        return list(islice((item_id for item_id in self._item_ids if item_id not in excluded), max(k, 0)))
