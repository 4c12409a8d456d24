"""How one release takes over from the one that lay in the same place: no change that was acknowledged is lost.

Owns what ends a log of changes and what begins one. The former log is ended, so that servers which still hold that
release refuse changes rather than acknowledge what the next one would not have. Then the last word on every item is
said again: what was deleted stays deleted until it is restored, and what was added stays as long as the data do not
have it. Arrays are another release's, so items are embedded anew of the facts that they came with. At last the own log
says what it follows; until then taking over is not done, and done again it comes to the same.
"""

import json
import logging
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
    """End the log of the release that lay here before and make its changes here; returns how many items they concern.

    A release that has done so is left alone.

    Raises:
        ReleaseDamaged: a log cannot be read.
        ServingError: as for any change.
        OSError: a log cannot be written.
    """
    release = Release.open(release_dir, delta=0)
    own, formers = _logs(release)
    if own.exists() and any(changes.follows is not None for changes in _changes(own)):
        return 0
    items, deleted = _last_words(_ended(formers, by=release.release_id))
    changer = ItemChanger.open(release_dir)
    try:
        now = changer.release  # a part may have been taken over before
        item_ids = now.stage1.catalogue.item_ids
        there = now.recommends(item_ids).tolist()
        recommended = {item_id for item_id, is_there in zip(item_ids, there, strict=True) if is_there}
        added = [facts for item_id, facts in items.items() if item_id not in recommended]
        gone = sorted(deleted & recommended)
        for start in range(0, len(gone), MAX_IDS):
            changer.apply(ChangeRequest(deleted_ids=tuple(gone[start : start + MAX_IDS])))
        for start in range(0, len(added), MAX_ITEMS):
            changer.apply(ChangeRequest(items=tuple(added[start : start + MAX_ITEMS])))
        changer.begin(follows=formers[0].parent.name if formers else "")
    finally:
        changer.close()
    logger.info("of the changes of the release before: %d items deleted, %d added", len(gone), len(added))
    return len(gone) + len(added)


def _logs(release: Release) -> tuple[Path, list[Path]]:
    """The release's own, which need not exist, and those of others that lay in the same place, the newest first."""
    own = deltas_dir(release.path, release.release_id)
    others = [path for path in own.parent.glob(f"*/{LOG_FILE}") if path.parent != own]
    return own / LOG_FILE, sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _ended(paths: Iterable[Path], *, by: str) -> list[ItemChanges]:
    """End logs, from the newest back to one that had taken over all before it; returns their changes in their order."""
    ended: list[Path] = []
    for path in paths:
        ended.insert(0, path)
        if any(changes.follows is not None for changes in _changes(path)):
            break
    # The newest last, for it must stay the newest if this is done again.
    return [changes for path in ended for changes in _changes(path, ended_by=by)]


def _changes(path: Path, *, ended_by: str | None = None) -> list[ItemChanges]:
    """All of a log; it is ended by that release unless it is ended."""
    try:
        log = ChangeLog(path, width=None)
        with log.appending():
            told = [ItemChanges.from_bytes(changes.notes) for changes in log.new()]
            if ended_by is not None and all(changes.followed_by is None for changes in told):
                log.append(Changes.of(notes=ItemChanges(followed_by=ended_by).to_bytes()))
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
