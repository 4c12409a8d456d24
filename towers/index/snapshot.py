"""One state of an index that changes: a base of any type, an exact delta, and what was deleted passed over.

Owns what changes do to a state, which is never written to: a change makes another state, which shares the base.
"""

# Shapes: N queries, D width of the embeddings, R rows of the item table.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitChange
from towers.index.build import FlatBuilder, IndexBuilder
from towers.index.changes import Changes
from towers.index.part import Part
from towers.index.ready_filter import ReadyFilter
from towers.index.search import ItemIndex, SearchResult

FloatArray = NDArray[np.float32]
NAMED = 5  # items that a message names


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state.

    Attributes:
        base: without items that were updated or deleted since it was built.
        delta: items that were added or updated since, searched exactly; None: none.
        seen: number of the last change in it.
    """

    base: ItemIndex
    delta: Part | None = None
    seen: int = 0

    @cached_property
    def index(self) -> ItemIndex:
        """What answers."""
        return self.base if self.delta is None else ItemIndex((*self.base.parts, self.delta))

    @property
    def num_changed(self) -> int:
        """Of items that a search pays for twice or in vain: those of the delta, and those passed over in the base."""
        gone = sum(len(part.rows) - part.num for part in self.base.parts)
        return gone + (0 if self.delta is None else self.delta.num)

    def search(self, query_embeddings: FloatArray, *, k: int, allowed: NDArray[np.bool_] | None = None) -> SearchResult:
        """As ItemIndex.search."""
        return self.index.search(query_embeddings, k=k, allowed=allowed)

    def only(self, allowed: NDArray[np.bool_], *, earlier: ReadyFilter | None = None) -> ReadyFilter:
        """The items that pass a filter; keep what this returns where the filter comes again.

        Args:
            allowed: [R] by ItemRow, R beyond every row of this state.
            earlier: what an earlier state made of the same filter. While the base is the same it is carried on, at the
                cost of the delta; else it is made anew. `allowed` may have grown and may say something else of items
                that were added or updated since, but of no others.

        Raises:
            ValueError: `allowed` is of another type, or too short.
        """
        return ReadyFilter.of(self.base.parts, self.delta, allowed, earlier=earlier)

    def with_changes(self, changes: Changes) -> Self:
        """The state after these; costs the delta, a bit an item of the base, and no more.

        Raises:
            UnfitChange: an embedding is of another width, or an item to delete is not there.
        """
        if len(changes.rows) and changes.embeddings.shape[1] != self.base.width:
            raise UnfitChange(f"expected embeddings of width {self.base.width}; got {changes.embeddings.shape[1]}")
        touched = np.concatenate([changes.deleted, changes.rows])
        parts = self.index.parts
        places = np.array([part.places_of(touched) for part in parts])  # [parts, M + A]
        unknown = changes.deleted[places[:, : len(changes.deleted)].max(axis=0) < 0]
        if len(unknown):
            raise UnfitChange(
                f"{len(unknown)} of {len(changes.deleted)} items to delete are not in the index, of rows "
                f"{unknown[:NAMED].tolist()}: leave them out, or look whether they were deleted before"
            )
        parts = tuple(part.without(own[own >= 0]) for part, own in zip(parts, places, strict=True))
        num_base = len(self.base.parts)
        items = [part.items() for part in parts[num_base:]]
        if len(changes.rows):
            items.append((changes.embeddings, changes.rows))
        delta = None
        if sum(len(rows) for _, rows in items):
            embeddings, rows = (np.concatenate(own) for own in zip(*items, strict=True))
            delta = FlatBuilder().build(embeddings, rows).parts[0]
        return replace(self, base=replace(self.base, parts=parts[:num_base]), delta=delta, seen=self.seen + 1)

    def with_all(self, changes: Sequence[Changes]) -> Self:
        """The state after these, one after the other, at the cost of one that does all that they come to.

        Raises:
            UnfitChange: as for each of them.
        """
        if len(changes) == 1:
            return self.with_changes(changes[0])
        deleted = np.unique(np.concatenate([own.deleted for own in changes]))
        is_there = np.zeros(len(deleted), np.bool_)
        for part in self.index.parts:
            is_there |= part.places_of(deleted) >= 0
        first = dict(zip(deleted.tolist(), is_there.tolist(), strict=True))
        last: dict[int, FloatArray | None] = {}
        for own in changes:
            for row in own.deleted.tolist():
                if last[row] is None if row in last else not first[row]:
                    raise UnfitChange(f"the item of row {row} is to be deleted and is not in the index")
                last[row] = None
            last.update(zip(own.rows.tolist(), own.embeddings, strict=True))
        kept = {row: embedding for row, embedding in last.items() if embedding is not None}
        net = Changes.of(
            np.array(list(kept), np.int64),
            np.stack(list(kept.values())) if kept else None,
            deleted=np.array([row for row, own in last.items() if own is None and first[row]], np.int64),
        )
        return replace(self.with_changes(net), seen=self.seen + len(changes))

    def with_last(self, values: FloatArray) -> Self:
        """As ItemIndex.with_last, values [R]; items beyond R, added since, keep their coordinate."""
        delta = None if self.delta is None else self.delta.with_last(values)
        return replace(self, base=self.base.with_last(values), delta=delta)

    def merged(self, builder: IndexBuilder) -> Self:
        """The same items, all in a base that is built anew; searched with the same effort where it has such settings.

        A state without items stays as it is.
        """
        if len(self.index) == 0:
            return self
        embeddings, rows = (np.concatenate(own) for own in zip(*(p.items() for p in self.index.parts), strict=True))
        order = np.argsort(rows)
        base = builder.build(embeddings[order], rows[order])
        effort = self.base.effort
        return replace(self, base=base.with_effort(effort) if base.effort.names == effort.names else base, delta=None)
