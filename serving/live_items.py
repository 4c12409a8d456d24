"""A release whose items change while it is served: its tables and its index, always of the same change.

Owns where the log of changes lies, and that an answer's tables and index belong together. The index and the log are
towers/index/live.py's, what a change does to tables item_changes.py's. Loaded inside Triton.

    <release>.deltas/<release id>/changes.log

A log lives as long as its release: whoever opens the release makes all of its changes again. It ends when another
release that is published in the same place takes over (carried_changes.py).
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.deltas import Delta
from serving.durable import sync
from serving.errors import ReleaseDamaged
from serving.item_changes import ItemChanges, index_changes, with_changes
from serving.release import Release
from serving.retrieval import BUILDER_FILE
from towers.index.build import FlatBuilder, IndexBuilder
from towers.index.builder_file import read_builder
from towers.index.change_log import ChangeLog
from towers.index.changes import Changes
from towers.index.live import LiveIndex
from towers.index.snapshot import Snapshot

logger = logging.getLogger(__name__)

LOG_FILE = "changes.log"


class LiveItems:
    """One release and the changes of its items. Its methods are called by one thread at a time.

    Args:
        release: as opened, at any delta.

    Raises:
        ReleaseDamaged: the log cannot be read, or is of another release.
    """

    def __init__(self, release: Release) -> None:
        self._release = release
        self._told: list[tuple[int, Changes]] = []
        path = log_path(release)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
                sync(directory)
        try:
            self._live = LiveIndex(
                release.stage1.index,
                builder=_builder(release.path),
                log_path=path,
                heard=lambda number, changes: self._told.append((number, changes)),
            )
        except ValueError as error:
            raise ReleaseDamaged(str(error)) from error
        self._take()

    @property
    def release(self) -> Release:
        """With all changes that were followed."""
        return self._release

    @property
    def is_stale(self) -> bool:
        """Whether a merge has ended whose index `release` does not have yet, and could have."""
        return not self._told and self._live.snapshot is not self._release.stage1.snapshot

    @property
    def is_busy(self) -> bool:
        """Whether a merge runs, which a tick would wait for."""
        return self._live.is_rebuilding

    def follow(self) -> None:
        """Make what other processes have changed.

        Raises:
            ReleaseDamaged: the log was damaged; what was made before goes on.
        """
        try:
            try:
                self._live.catch_up()
            finally:
                self._take()
        except ValueError as error:
            raise ReleaseDamaged(str(error)) from error

    def change(self, changes: ItemChanges) -> int:
        """Make changes; returns their number. They are on the disk then, and every process will have them.

        Raises:
            InvalidRequest: they do not fit; nothing was changed.
            ServerUnavailable: another release has taken over; nothing was changed.
            OSError: the log could not be written.
        """

        def made(_: object) -> Changes:
            self._take()  # what others changed just now: rows are given one after the other
            return index_changes(self._release, changes)

        try:
            return self._live.apply(made)
        finally:
            self._take()

    def tick(self, delta: Delta) -> None:
        """Take the item aggregates of a later tick.

        Raises:
            DeltaRefused: it is no later than what there is.
        """
        self._release = self._release.with_delta(delta, ticked=self._ticked)

    def close(self) -> None:
        """End; a merge that runs is waited for."""
        self._live.close()

    def _ticked(self, values: NDArray[np.float32]) -> Snapshot:
        self._live.tick(values)
        return self._live.snapshot

    def _take(self) -> None:
        release = self._release
        for number, changes in self._told:
            release = replace(with_changes(release, changes), changes=number)
        # All of them or none: an index with items that no table has would find what cannot be answered.
        self._told.clear()
        self._release = replace(release, stage1=replace(release.stage1, snapshot=self._live.snapshot))


def at_change(release: Release, number: int) -> Release:
    """A release with its first changes, and it stays so: what an answer of then was made of.

    Raises:
        ReleaseDamaged: the log cannot be read, or has not so many.
    """
    snapshot = release.stage1.snapshot
    if not log_path(release).exists():
        raise ReleaseDamaged(f"{log_path(release)} is missing; change {number} is asked for")
    try:
        log = ChangeLog(log_path(release), width=snapshot.base.width)
        while release.changes < number:
            changes = next(log.new(), None)
            if changes is None:
                raise ReleaseDamaged(f"{log.path} ends with change {release.changes}; change {number} is asked for")
            snapshot = snapshot.with_changes(changes)
            release = replace(with_changes(release, changes), changes=release.changes + 1)
    except (ValueError, OSError) as error:
        raise ReleaseDamaged(str(error)) from error
    return replace(release, stage1=replace(release.stage1, snapshot=snapshot))


def log_path(release: Release) -> Path:
    """Of the log of changes, which need not exist."""
    return release.deltas.directory / LOG_FILE


def _builder(release_dir: Path) -> IndexBuilder:
    path = release_dir / BUILDER_FILE
    if not path.is_file():
        logger.warning(
            "%s does not say what builds its index: merged with changes it will be an exact one", release_dir
        )
        return FlatBuilder()
    try:
        return read_builder(path)
    except ValueError as error:
        raise ReleaseDamaged(f"{path}: {error}; export the release again: scripts/export_release.py") from error
