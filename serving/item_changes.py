"""What a change of items does to a release: to every table but the index, and which change of the index it is.

Owns which row an item gets, what an update leaves as it was, and what is refused. Nothing is written to: a change makes
another release that shares what did not change. Loaded inside Triton.
"""

# Shapes: M items added or updated, G that go, B that come back, R rows of the release's own table.

import json
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.transforms import ItemInputs
from features.vocab import FIRST
from serving.errors import InvalidRequest, ReleaseDamaged, ServerUnavailable
from serving.grown import grown
from serving.item_arrays import ItemArrays
from serving.release import Release
from towers.index.changes import Changes

IntArray = NDArray[np.int64]

NAMED = 5  # items that a message names
_IDS = ("deleted_ids", "restored_ids", "follows", "followed_by")


@dataclass(frozen=True)
class ItemChanges:
    """What is to become of some items; all of it or nothing.

    Attributes:
        items: added, or updated where the release has them.
        deleted_ids: what is recommended no more; its facts stay known, for histories have it.
        restored_ids: what is known and not recommended, for it was deleted or had too few events, and is from now on,
            with the facts that it had.
        follows: id of the release whose changes were taken over before this, "" where there was none; None: says
            nothing.
        followed_by: id of the release that takes over what was changed until this; None: says nothing. No change
            comes after it.
    """

    items: ItemArrays | None = None
    deleted_ids: tuple[str, ...] = ()
    restored_ids: tuple[str, ...] = ()
    follows: str | None = None
    followed_by: str | None = None

    def to_bytes(self) -> bytes:
        """For a log: a line of JSON with the ids, then the items."""
        ids = {name: getattr(self, name) for name in _IDS}
        return json.dumps(ids).encode() + b"\n" + (b"" if self.items is None else self.items.to_bytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The reverse of `to_bytes`.

        Raises:
            ReleaseDamaged: it is something else.
        """
        head, _, items = content.partition(b"\n")
        try:
            ids = json.loads(head)
            deleted_ids, restored_ids = tuple(ids["deleted_ids"]), tuple(ids["restored_ids"])
            follows, followed_by = ids.get("follows"), ids.get("followed_by")
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseDamaged(
                f"a logged change is none of this version ({type(error).__name__}: {error}); begin another log"
            ) from error
        return cls(ItemArrays.from_bytes(items) if items else None, deleted_ids, restored_ids, follows, followed_by)


def index_changes(release: Release, changes: ItemChanges) -> Changes:
    """The same for the index, as it is logged.

    Raises:
        InvalidRequest: an item stands twice, is to go or to come back and cannot, or arrays are of other widths.
        ServerUnavailable: another release has taken over.
    """
    if release.followed_by is not None:
        raise ServerUnavailable(
            f"release {release.release_id} takes no more changes, for {release.followed_by} follows it: start this "
            "server again, which opens that one, and send the change then"
        )
    item_ids = changes.items.item_ids if changes.items is not None else ()
    _check_distinct([*item_ids, *changes.deleted_ids, *changes.restored_ids])
    catalogue, recommendable = release.stage1.catalogue, release.stage1.recommendable
    deleted, restored = catalogue.rows(changes.deleted_ids), catalogue.rows(changes.restored_ids)
    gone = (deleted < FIRST) | ~recommendable[deleted]
    _refuse("deleted_ids", changes.deleted_ids, gone, "are not recommended: they are unknown, or were deleted before")
    lost = (restored < FIRST) | recommendable[restored]
    _refuse(
        "restored_ids",
        changes.restored_ids,
        lost,
        "are recommended, or unknown: send items that are new with their facts",
    )
    rows = catalogue.rows(item_ids)
    new = rows < FIRST
    rows[new] = len(catalogue) + np.arange(int(new.sum()))
    if changes.items is not None:
        _check_facts(release, changes.items)
    told = Changes.of(
        np.concatenate([rows, restored]),
        np.zeros((len(rows) + len(restored), release.stage1.index.width), np.float32),
        deleted=deleted,
        notes=changes.to_bytes(),
    )
    try:
        changed = with_changes(release, told)
    except ValueError as error:
        raise InvalidRequest(field="items", message=str(error)) from error
    return replace(told, embeddings=changed.stage1.indexed(told.rows))


def with_changes(release: Release, changes: Changes) -> Release:
    """The release after a change that was logged, with the index as before.

    Raises:
        ReleaseDamaged: the change brings no items of this version.
        ValueError: its arrays are of other widths than the release's.
    """
    told = ItemChanges.from_bytes(changes.notes)
    if told.items is not None:
        # What is added or updated comes first, then what only comes back.
        release = _with_items(release, changes.rows[: len(told.items)], told.items)
    if told.followed_by is not None:
        release = replace(release, followed_by=told.followed_by)
    recommendable = np.zeros(len(release.stage1.catalogue), dtype=np.bool_)
    recommendable[: len(release.stage1.recommendable)] = release.stage1.recommendable
    recommendable[changes.rows] = True
    recommendable[changes.deleted] = False
    return replace(release, stage1=replace(release.stage1, recommendable=recommendable))


def _with_items(release: Release, rows: IntArray, items: ItemArrays) -> Release:
    stage1 = release.stage1
    added = [
        item_id for item_id, row in zip(items.item_ids, rows.tolist(), strict=True) if row >= len(stage1.catalogue)
    ]
    # A known item keeps what its events have made of it: its learned id, and what it is like in histories.
    is_new = np.isin(rows, stage1.new_items.rows) | (rows >= stage1.statistics.values.shape[1])
    linear = items.linear
    if not is_new.all():
        linear = np.where(is_new[:, None], linear, stage1.linear_embeddings[np.where(is_new, FIRST, rows)])
    inputs = {
        field.name: grown(getattr(stage1.items, field.name), rows, getattr(items.inputs, field.name))
        for field in fields(ItemInputs)
    }
    states = release.item_states
    return replace(
        release,
        stage1=replace(
            stage1,
            catalogue=stage1.catalogue.with_more(added) if added else stage1.catalogue,
            items=ItemInputs(**inputs),
            item_embeddings=grown(stage1.item_embeddings, rows, items.learned),
            linear_embeddings=grown(stage1.linear_embeddings, rows, linear),
            text_embeddings=grown(stage1.text_embeddings, rows, items.text),
            new_items=stage1.new_items.and_these(rows[is_new], items.as_new[is_new])
            if is_new.any()
            else stage1.new_items,
        ),
        item_states=None if states is None else grown(states, rows, items.states),
        titles=_titled(release.titles, dict(zip(items.item_ids, items.titles, strict=True))),
    )


def _titled(titles: Mapping[str, str], own: dict[str, str]) -> Mapping[str, str]:
    """With these too; a large catalogue's are not copied."""
    if isinstance(titles, ChainMap):
        return ChainMap(dict(titles.maps[0]) | own, *titles.maps[1:])
    return ChainMap(own, dict(titles) if not isinstance(titles, dict) else titles)


def _check_facts(release: Release, items: ItemArrays) -> None:
    for name in ("learned", "linear", "text", "as_new"):
        if not np.isfinite(getattr(items, name)).all():
            raise InvalidRequest(field="items", message=f"{name} embeddings hold NaN or infinity; nothing was changed")
    stage1 = release.stage1
    width = min(stage1.item_embeddings.shape[1], stage1.blend.learned_width or stage1.item_embeddings.shape[1])
    if items.as_new.shape != (len(items), width):
        raise InvalidRequest(
            field="items", message=f"expected as_new {[len(items), width]}; got {list(items.as_new.shape)}"
        )


def _check_distinct(item_ids: Sequence[str]) -> None:
    twice = [item_id for item_id, times in Counter(item_ids).items() if times > 1]
    if twice:
        raise InvalidRequest(
            field="items",
            message=f"{twice[:NAMED]} stand twice among what is added, updated, deleted and restored: give each once",
        )


def _refuse(field: str, item_ids: Sequence[str], wrong: NDArray[np.bool_], said: str) -> None:
    if wrong.any():
        named = [item_ids[place] for place in np.flatnonzero(wrong)[:NAMED]]
        raise InvalidRequest(field=field, message=f"{named} {said}; nothing was changed")
