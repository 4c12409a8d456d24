"""A filter made ready for one state of an index, and carried on to later states.

Owns what is kept of it. Changes only take items from a base (snapshot.py), so what was made ready on the base goes on
being right but for these; the delta is small and is filtered anew. A merge or a tick makes another base, and the filter
is made anew.
"""

# Shapes: N queries, D width of the embeddings, R rows of the item table.

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from towers.index.part import Part
from towers.index.passing import Passing
from towers.index.search import ItemIndex, SearchResult, check_filter


@dataclass(frozen=True, eq=False)
class ReadyFilter:
    """What passes of one state; it comes from `Snapshot.only`.

    Attributes:
        base: parts of the state's base, as it found them.
        passing: the same parts with what passes alone.
        delta: what passes of the state's delta; None: there is none.
    """

    base: tuple[Part, ...]
    passing: tuple[Part, ...]
    delta: Part | None

    @classmethod
    def of(
        cls, base: tuple[Part, ...], delta: Part | None, allowed: NDArray[np.bool_], *, earlier: Self | None = None
    ) -> Self:
        """See Snapshot.only."""
        check_filter(allowed, base if delta is None else (*base, delta))
        if earlier is not None and _is_later(base, earlier.base):
            passing = tuple(map(_less, earlier.passing, earlier.base, base))
        else:
            passing = tuple(part.only(allowed[part.rows]) for part in base)
        return cls(base, passing, None if delta is None else delta.only(allowed[delta.rows]))

    @cached_property
    def index(self) -> ItemIndex:
        """What answers."""
        return ItemIndex(self.passing if self.delta is None else (*self.passing, self.delta))

    def search(self, query_embeddings: NDArray[np.float32], *, k: int) -> SearchResult:
        """As ItemIndex.search."""
        return self.index.search(query_embeddings, k=k)


def _is_later(base: tuple[Part, ...], before: tuple[Part, ...]) -> bool:
    """Whether these are the same parts, from which nothing but items went since; a merge or a tick makes others."""
    return len(base) == len(before) and all(
        own.structure is former.structure and own.effort == former.effort and _is_within(own.passing, former.passing)
        for own, former in zip(base, before, strict=True)
    )


def _is_within(own: Passing | None, former: Passing | None) -> bool:
    return former is None or (own is not None and not (own.bits & ~former.bits).any())


def _less(passing: Part, before: Part, now: Part) -> Part:
    """What passes, without what went from its part of the base meanwhile."""
    if now.passing is None or now.passing is before.passing:
        return passing
    places = passing.places_of(now.rows[now.passing.gone_since(before.passing)])
    return passing.without(places[places >= 0])
