"""What the next release takes over of the changes that were made to the one before.

Owns which: what was deleted stays deleted until it is restored, and what was added stays as long as the data do not
have it. Arrays are another release's, so items are embedded anew of the facts that they came with.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from serving.change_items import ItemChanger
from serving.deltas import deltas_dir
from serving.errors import ReleaseDamaged
from serving.item_changes import ItemChanges
from serving.item_wire import MAX_IDS, MAX_ITEMS, ChangeRequest, ItemFacts
from serving.live_items import LOG_FILE
from serving.release import Release
from towers.index.change_log import ChangeLog

logger = logging.getLogger(__name__)


def carry_changes(release_dir: Path) -> int:
    """Make the changes of the release that lay here before; returns how many items they concern.

    A release that has changes of its own took them over before, and is left alone.

    Raises:
        ReleaseDamaged: the former log cannot be read.
        ServingError: as for any change.
    """
    release = Release.open(release_dir, delta=0)
    former = _former_log(release)
    if former is None:
        return 0
    items, deleted = _last_words(former)
    catalogue = release.stage1.catalogue
    there = release.recommends(catalogue.item_ids)
    recommended = {item_id for item_id, is_there in zip(catalogue.item_ids, there.tolist(), strict=True) if is_there}
    added = [facts for item_id, facts in items.items() if item_id not in recommended]
    gone = sorted(deleted & recommended)
    changer = ItemChanger.open(release_dir)
    try:
        for start in range(0, len(gone), MAX_IDS):
            changer.apply(ChangeRequest(deleted_ids=tuple(gone[start : start + MAX_IDS])))
        for start in range(0, len(added), MAX_ITEMS):
            changer.apply(ChangeRequest(items=tuple(added[start : start + MAX_ITEMS])))
    finally:
        changer.close()
    logger.info("of the changes of the release before: %d items deleted, %d added", len(gone), len(added))
    return len(gone) + len(added)


def _former_log(release: Release) -> Path | None:
    """The newest log of another release that lay in the same place; None: there is none, or this one has its own."""
    own = deltas_dir(release.path, release.release_id)
    if (own / LOG_FILE).exists() or not own.parent.is_dir():
        return None
    logs = [path for path in own.parent.glob(f"*/{LOG_FILE}") if path.parent != own]
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)


def _last_words(path: Path) -> tuple[dict[str, ItemFacts], set[str]]:
    """Facts of what was added or updated and is not gone, by id, and what is gone."""
    items: dict[str, ItemFacts] = {}
    deleted: set[str] = set()
    for changes in _changes(path):
        if changes.items is not None:
            deleted -= set(changes.items.item_ids)
            for item_id, facts in zip(changes.items.item_ids, changes.items.facts, strict=False):
                items[item_id] = ItemFacts(**json.loads(facts))
        deleted = deleted - set(changes.restored_ids) | set(changes.deleted_ids)
    return {item_id: facts for item_id, facts in items.items() if item_id not in deleted}, deleted


def _changes(path: Path) -> Iterator[ItemChanges]:
    try:
        for changes in ChangeLog(path, width=None).new():
            yield ItemChanges.from_bytes(changes.notes)
    except ValueError as error:
        raise ReleaseDamaged(str(error)) from error
