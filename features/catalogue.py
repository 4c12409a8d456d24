"""Which item stands in which row of the item table, and the columns of that table.

Owns ItemId <-> ItemRow. Row 0 is padding, row 1 stands for any unknown item, the catalogue begins at row 2: so one
row number serves item arrays, embeddings and the Faiss index alike, and no code adds offsets.
"""

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.errors import FeaturesError
from features.ids import ItemId, ItemRow
from features.vocab import FIRST, PADDING, UNKNOWN


@dataclass(frozen=True)
class Catalogue:
    """The items, in row order from FIRST on."""

    item_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self._row_of) != len(self.item_ids):
            raise FeaturesError(
                f"a catalogue needs distinct item ids; got {len(self.item_ids)} ids of which "
                f"{len(self._row_of)} are distinct: remove the duplicates from the items table"
            )

    @cached_property
    def _row_of(self) -> MutableMapping[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=FIRST)}

    def with_more(self, item_ids: Sequence[str]) -> "Catalogue":
        """The same rows and further ones for items that it does not have, in this order."""
        base, added = (self.base, self.added) if isinstance(self, GrownCatalogue) else (self, ())
        return GrownCatalogue(item_ids=(*self.item_ids, *item_ids), base=base, added=(*added, *item_ids))

    def __len__(self) -> int:
        """Rows of the item table: the items, padding and unknown."""
        return len(self.item_ids) + FIRST

    def row(self, item_id: str) -> ItemRow:
        """Row of an item; UNKNOWN for one that is not in the catalogue."""
        return ItemRow(self._row_of.get(item_id, UNKNOWN) if item_id else PADDING)

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """ItemRows [len(item_ids)]; unknown items get UNKNOWN, empty ids PADDING."""
        known = self._row_of
        return np.array([known.get(item_id, UNKNOWN) if item_id else PADDING for item_id in item_ids], dtype=np.int64)

    def item_id(self, row: int) -> ItemId:
        """Item in a row; empty for padding and unknown."""
        return ItemId(self.item_ids[row - FIRST] if row >= FIRST else "")


@dataclass(frozen=True)
class GrownCatalogue(Catalogue):
    """A catalogue and what came after it; a large one is not gone through again for a few items more.

    Attributes:
        base: what it grew from.
        added: its last items.
    """

    base: Catalogue
    added: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self._added) != len(self.added) or any(item_id in self.base._row_of for item_id in self.added):
            raise FeaturesError(f"a catalogue needs distinct item ids; of {', '.join(self.added[:5])} it has some")

    @cached_property
    def _added(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.added, start=len(self.base))}

    @cached_property
    def _row_of(self) -> MutableMapping[str, int]:
        return ChainMap(self._added, self.base._row_of)


@dataclass(frozen=True)
class ItemColumns:
    """Raw item facts, one entry an item, in catalogue order.

    `categories[name]` holds a list of values per item, `numbers[name]` a float (nan = missing), `texts[name]` a string.
    """

    catalogue: Catalogue
    categories: Mapping[str, Sequence[Sequence[str]]]
    numbers: Mapping[str, NDArray[np.float64]]
    texts: Mapping[str, Sequence[str]]

    def take(self, places: NDArray[np.int64]) -> "ItemColumns":
        """Some of the items, by their places in the catalogue; the first is 0."""
        item_ids = self.catalogue.item_ids
        return ItemColumns(
            catalogue=Catalogue(tuple(item_ids[place] for place in places)),
            categories={name: [values[place] for place in places] for name, values in self.categories.items()},
            numbers={name: values[places] for name, values in self.numbers.items()},
            texts={name: [texts[place] for place in places] for name, texts in self.texts.items()},
        )
