"""How one release takes over from those that lay in the same place: no change that was acknowledged is lost.

Owns what ends a log of changes and what begins one. Former logs are ended, so that servers which still hold another
release refuse changes rather than acknowledge what this one would not have. Then the last word on every item is said
again: what was deleted stays deleted until it is restored, and what was added stays as long as the data do not have it.
Arrays are another release's, so items are embedded anew of the facts that they came with. At last the own log says that
this is done; broken off before, it is done again to the same end.

Which log is the later one says the time of the file's last change, which a copy has to keep.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from serving.change_items import ItemChanger
from serving.deltas import deltas_dir
from serving.errors import ReleaseDamaged
from serving.item_changes import ItemChanges
from serving.item_wire import MAX_IDS, MAX_ITEMS, ChangeRequest, ItemFacts
from serving.live_items import LOG_FILE
from serving.release import Release
from towers.index.change_log import ChangeLog
from towers.index.changes import Changes

logger = logging.getLogger(__name__)


def carry_changes(release_dir: Path) -> int:
    """End the logs of releases that lay here before and make their changes here; returns how many items they concern.

    A release that has done so is left alone. One that comes back after another begins a new log.

    Raises:
        ReleaseDamaged: a log cannot be read.
        ServingError: as for any change; no log was ended, if the release takes no items and has to.
        OSError: a log cannot be written.
    """
    release = Release.open(release_dir, delta=0)
    own = deltas_dir(release.path, release.release_id) / LOG_FILE
    if own.exists():
        marks = [told for told in _changes(own) if told.follows is not None or told.followed_by is not None]
        if marks and marks[-1].follows is not None:
            return 0
        if marks:
            _set_aside(own)
    formers = sorted((path for path in own.parent.parent.glob(f"*/{LOG_FILE}") if path != own), key=_changed_ns)
    changer = ItemChanger.open(release_dir)
    try:
        for ended_by in (None, release.release_id):
            told = [changes for path in formers for changes in _changes(path, ended_by=ended_by)]
            # What was changed here already is later: servers may have opened this release before.
            added, gone = _lacking(changer.release, [*told, *(_changes(own) if own.exists() else [])])
            if ended_by is None and added:
                changer.check(ChangeRequest(items=tuple(added[:1])))
        for start in range(0, len(gone), MAX_IDS):
            changer.apply(ChangeRequest(deleted_ids=tuple(gone[start : start + MAX_IDS])))
        for start in range(0, len(added), MAX_ITEMS):
            changer.apply(ChangeRequest(items=tuple(added[start : start + MAX_ITEMS])))
        changer.begin(follows=formers[-1].parent.name if formers else "")
    finally:
        changer.close()
    if formers:
        logger.info("of the changes of releases before: %d items deleted, %d added", len(gone), len(added))
    return len(gone) + len(added)


def _lacking(release: Release, told: Iterable[ItemChanges]) -> tuple[list[ItemFacts], list[str]]:
    """Which items the last words want to be there and are not, and which are there and are to go."""
    items, deleted = _last_words(told)
    item_ids = release.stage1.catalogue.item_ids
    there = release.recommends(item_ids).tolist()
    recommended = {item_id for item_id, is_there in zip(item_ids, there, strict=True) if is_there}
    return [facts for item_id, facts in items.items() if item_id not in recommended], sorted(deleted & recommended)


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _set_aside(log: Path) -> None:
    """Give an ended log another folder, where it is one of those before."""
    number = 1
    while (folder := log.parent.with_name(f"{log.parent.name}.{number}")).exists():
        number += 1
    folder.mkdir()
    log.rename(folder / log.name)


def _changes(path: Path, *, ended_by: str | None = None) -> list[ItemChanges]:
    """All of a log; it is ended by that release unless it is ended."""
    try:
        log = ChangeLog(path, width=None)
        with log.appending():
            told = [ItemChanges.from_bytes(changes.notes) for changes in log.new()]
            if ended_by is not None and all(changes.followed_by is None for changes in told):
                times = path.stat().st_atime_ns, _changed_ns(path)
                log.append(Changes.of(notes=ItemChanges(followed_by=ended_by).to_bytes()))
                os.utime(path, ns=times)  # ending is no change, and must not make it the latest
        log.close()
    except ValueError as error:
        raise ReleaseDamaged(str(error)) from error
    return told


def _last_words(told: Iterable[ItemChanges]) -> tuple[dict[str, ItemFacts], set[str]]:
    """Facts of what was added or updated and is not gone, by id, and what is gone."""
    items: dict[str, ItemFacts] = {}
    deleted: set[str] = set()
    for changes in told:
        if changes.items is not None:
            deleted -= set(changes.items.item_ids)
            for item_id, facts in zip(changes.items.item_ids, changes.items.facts, strict=False):
                items[item_id] = ItemFacts(**json.loads(facts))
        deleted = deleted - set(changes.restored_ids) | set(changes.deleted_ids)
    return {item_id: facts for item_id, facts in items.items() if item_id not in deleted}, deleted
