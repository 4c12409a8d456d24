"""One request to change items, from its tensors to its number: read, embedded, logged.

Owns the order of these: an item is embedded before anybody waits for it, and is on the disk before it is acknowledged.
Loaded inside Triton; knows nothing of its API.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.follower import ReleaseFollower
from serving.item_changes import ItemChanges
from serving.item_embedder import ItemEmbedder
from serving.item_wire import ChangeRequest, decode_changes
from serving.release import Release
from serving.wire import Tensors


class ItemChanger:
    """Changes the items of one release.

    Args:
        follower: of the release.
        embedder: makes arrays of items' raw facts.
    """

    def __init__(self, *, follower: ReleaseFollower, embedder: ItemEmbedder) -> None:
        self._follower = follower
        self._embedder = embedder

    @classmethod
    def open(cls, release_dir: Path) -> "ItemChanger":
        """Over a release directory; its files are checked."""
        follower = ReleaseFollower(Release.open(release_dir))
        return cls(follower=follower, embedder=ItemEmbedder.open(release_dir))

    def change(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        """The answer's tensors; see item_wire.py.

        Raises:
            InvalidRequest: it cannot be made; nothing was changed.
            ServingError: the release takes no items, or the log cannot be read.
            OSError: the log could not be written.
        """
        number = self.apply(decode_changes(tensors, spec=self._follower.release.spec))
        return {
            "number": np.array([number], dtype=np.int64),
            "release_id": np.array([self._follower.release.release_id.encode()], dtype=object),
        }

    def apply(self, request: ChangeRequest) -> int:
        """Make what a request asks; returns its number."""
        return self._follower.change(self._made(request))

    def check(self, request: ChangeRequest) -> None:
        """Make all of a change but the change: embed its items.

        Raises:
            InvalidRequest: an item cannot be read.
            ServingError: the release takes no items.
        """
        self._made(request)

    @property
    def release(self) -> Release:
        """With all changes until now."""
        return self._follower.release

    def begin(self, *, follows: str) -> int:
        """Log that the release has taken over another one's changes; "": that there was none. Returns the number."""
        return self._follower.change(ItemChanges(follows=follows))

    def close(self) -> None:
        """End what runs beside."""
        self._follower.close()

    def _made(self, request: ChangeRequest) -> ItemChanges:
        spec, items = self._follower.release.spec, None
        if request.items:
            items = replace(
                self._embedder.embed(request.columns(spec)),
                titles=request.titles(spec),
                facts=tuple(item.to_json() for item in request.items),
            )
        return ItemChanges(items=items, deleted_ids=request.deleted_ids, restored_ids=request.restored_ids)
