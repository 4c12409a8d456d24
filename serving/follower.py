"""A release that follows its deltas and the changes of its items while it is served.

Owns when something new is looked for and what a refused one means: the last good one goes on. Loaded inside Triton.
"""

import logging
import os
import threading
from pathlib import Path

from serving.errors import DeltaRefused, ReleaseDamaged
from serving.item_changes import ItemChanges
from serving.live_items import LiveItems, log_path
from serving.release import Release

logger = logging.getLogger(__name__)

Mark = tuple[int, ...]


class ReleaseFollower:
    """An opened release at its newest delta and change, whoever asks; threads may share one.

    Looking costs two calls of stat, so every request does it. A thread that is reading what is new keeps the others
    waiting for nothing: they get what was before, and a release that was handed out never changes.

    Args:
        release: as opened.

    Raises:
        ReleaseDamaged: there is a log of changes and it cannot be read: what was deleted must not come back.
    """

    def __init__(self, release: Release) -> None:
        self._deltas = release.deltas
        self._log_path = log_path(release)
        self._items = LiveItems(release) if self._log_path.exists() else None
        self._release = release if self._items is None else self._items.release
        # No mark is true until the first look, which finds what was published while the release was being opened.
        self._delta_mark: Mark | None = None
        self._log_mark: Mark | None = None
        self._reading = threading.Lock()

    @property
    def release(self) -> Release:
        """At the delta and change that are current now; at the last good ones if these are refused."""
        if self._is_behind and self._reading.acquire(blocking=False):
            try:
                self._follow()
            finally:
                self._reading.release()
        return self._release

    def change(self, changes: ItemChanges) -> int:
        """Change items; returns the change's number. It is on the disk then, and in what the next request gets here.

        Raises:
            InvalidRequest: the changes do not fit; nothing was changed.
            ServerUnavailable: another release has taken over; nothing was changed.
            ReleaseDamaged: the log cannot be read.
            OSError: the log could not be written; nothing was changed that survives.
        """
        with self._reading:
            self._follow()
            if self._items is None:
                self._items = LiveItems(self._release)
            try:
                return self._items.change(changes)
            finally:
                self._release = self._items.release

    def close(self) -> None:
        """End what runs beside; a merge is waited for."""
        with self._reading:
            if self._items is not None:
                self._items.close()

    @property
    def _is_behind(self) -> bool:
        if self._deltas.mark != self._delta_mark or _mark(self._log_path) != self._log_mark:
            return True
        return self._items is not None and self._items.is_stale

    def _follow(self) -> None:
        log_mark = _mark(self._log_path)
        try:
            if self._items is None and log_mark:
                self._items = LiveItems(self._release)
            if self._items is not None:
                self._items.follow()
                self._release = self._items.release
        except ReleaseDamaged as error:
            # Said once: it is looked at again when the log grows.
            logger.error("items stay as change %d has them: %s", self._release.changes, error)
        self._log_mark = log_mark
        if self._items is not None and self._items.is_busy:
            return  # a tick would wait for the merge, and the request with it
        delta_mark = self._deltas.mark
        try:
            self._follow_delta()
        except DeltaRefused as error:
            # Said once: it is looked at again when `current` is replaced.
            logger.error("delta %d goes on serving: %s", self._release.delta, error)
        self._delta_mark = delta_mark

    def _follow_delta(self) -> None:
        number = self._deltas.newest
        if number == self._release.delta or self._deltas.mark == self._delta_mark:
            return
        delta = self._deltas.read(number)
        if self._items is None:
            self._release = self._release.with_delta(delta)
        else:
            self._items.tick(delta)
            self._release = self._items.release
        logger.info("release %s: delta %d", self._release.release_id, number)


def _mark(path: Path) -> Mark:
    """Something cheap that is another one whenever the file was appended to; empty while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
