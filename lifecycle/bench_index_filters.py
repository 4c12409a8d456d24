"""Recall and time of a query under filters, by type of index: what passes is a group of items, or drawn at random.

Owns the rows. Each type reads the least that reaches the recall without a filter, found on other queries than those
that are measured; the flat index under the same bitmap takes turns with it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifecycle.grouped_catalogues import Grouped, factorised, made_up
from towers.index.build import FlatBuilder
from towers.index.operate import Efforts, query_ms
from towers.index.recall import HeldOut
from towers.index.recipes import Recipe
from towers.index.search import ItemIndex

TURNS, IN_A_TURN = 3, 16


@dataclass(frozen=True)
class IndexFiltersBench:
    """Catalogues, indexes and filters.

    Attributes:
        recipes: of indexes, by a name.
        num_items: of made-up catalogues.
        tables: directory of a prepared dataset's tables, whose factors are another catalogue; None: no other.
        shares: that pass a filter; 1: no filter.
        width: of the embeddings.
        tail: deviation of the logarithm of made-up norms.
        num_queries: that the least effort is sought on, and as many that are measured.
        k: length of a list.
        recall: that the least effort is sought for.
        seed: of all that is drawn.
    """

    recipes: Mapping[str, Recipe]
    num_items: Sequence[int]
    tables: str | None
    shares: Sequence[float]
    width: int
    tail: float
    num_queries: int
    k: int
    recall: float
    seed: int

    def rows(self) -> Iterator[dict[str, object]]:
        """One for each catalogue, filter and index."""
        num_queries = 2 * self.num_queries
        for num in self.num_items:
            drawn = made_up(num, num_queries=num_queries, width=self.width, tail=self.tail, seed=self.seed)
            yield from self._rows(f"made up {num}", drawn)
        if self.tables is not None:
            factors = factorised(Path(self.tables), num_queries=num_queries, width=self.width, seed=self.seed)
            yield from self._rows("factors", factors)

    def _rows(self, name: str, catalogue: Grouped) -> Iterator[dict[str, object]]:
        items, rows = catalogue.items, np.arange(len(catalogue.items)) + 1
        seen, queries = np.split(catalogue.queries, 2)
        indexes = {own: self._index(recipe, items, rows, seen) for own, recipe in self.recipes.items()}
        flat = FlatBuilder().build(items, rows)
        for share in self.shares:
            at_random = np.random.default_rng(self.seed).random(len(items)) < share
            filters = {"none": at_random} if share == 1 else {"at random": at_random, **_grouped(catalogue, share)}
            for filter_, passes in filters.items():
                held_out = HeldOut(items[passes], rows[passes], queries, self.k)
                for index_name, index in indexes.items():
                    found = self._measured(index, flat, passes, held_out)
                    yield {
                        "catalogue": name,
                        "filter": filter_,
                        "aimed_share": share,
                        "share": passes.mean(),
                        "index": index_name,
                        **found,
                    }

    def _index(
        self, recipe: Recipe, items: NDArray[np.float32], rows: NDArray[np.int64], queries: NDArray[np.float32]
    ) -> ItemIndex:
        index = recipe.builder(len(items)).build(items, rows)
        found, best = Efforts(index, HeldOut(items, rows, queries, self.k), target=self.recall).least()
        return index.with_effort(min(found or [best], key=lambda own: own.at_once_ms).effort)

    def _measured(
        self, index: ItemIndex, flat: ItemIndex, passes: NDArray[np.bool_], held_out: HeldOut
    ) -> dict[str, object]:
        is_filtered = not passes.all()
        began = time.process_time()
        ready = index.only(np.concatenate([[False], passes])) if is_filtered else index  # row 0 is no item's
        ready_ms = 1e3 * (time.process_time() - began)
        bitmap = ItemIndex((flat.parts[0].without(np.flatnonzero(~passes)),)) if is_filtered else flat
        recalls, times = held_out.recalls(ready), []
        for _ in range(TURNS):
            both = [query_ms(own, held_out.queries, k=self.k, num=IN_A_TURN) for own in (ready, bitmap)]
            times.append(both)
        own_ms, bitmap_ms = np.median(times, axis=0)
        return {
            "effort": " ".join(f"{own}={getattr(index.effort, own)}" for own in index.effort.names),
            "recall": recalls.mean(),
            "recall_error": 1.96 * recalls.std() / np.sqrt(len(recalls)),
            "recall_lowest_tenth": np.quantile(recalls, 0.1),
            "ms": own_ms,
            "flat_bitmap_ms": bitmap_ms,
            "speed_up": float(np.median([flat_ms / ms for ms, flat_ms in times])),
            "ready_ms": ready_ms,
        }


def _grouped(catalogue: Grouped, share: float) -> dict[str, NDArray[np.bool_]]:
    """Whether an item passes [P], by what the filter is called: a group, or all but one where most pass."""
    passes, name = catalogue.group(min(share, 1 - share))
    return {f"all but {name}": ~passes} if share > 0.5 else {name: passes}
