"""What changes of an index cost and what they do to recall, by type of index: before them, after, and after a merge.

Owns the course of changes: of every ten items that are touched half are updated and half deleted, and as many as are
deleted are added.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifecycle.made_up_embeddings import Clouds
from towers.index.changes import Changes
from towers.index.live import LiveIndex
from towers.index.operate import Efforts, Stopwatch
from towers.index.recall import HeldOut
from towers.index.recipes import Recipe
from towers.index.search import ItemIndex, SearchResult

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

TURNS = 7
NEVER = 1e9  # merge_share of an index that is merged when told so


@dataclass(frozen=True)
class IndexChangesBench:
    """A made-up catalogue and its changes.

    Attributes:
        recipes: of indexes, by a name.
        num_items: before the changes.
        churn: share of the items that is touched.
        in_a_change: items that are updated in one, and as many deleted and added.
        filtered: share of the items that pass a filter which is kept over the changes.
        width: of the embeddings.
        tail: deviation of the norms' logarithm.
        num_queries: that the least effort is sought on, and as many that are measured.
        k: length of a list.
        recall: that the least effort is sought for.
        seed: of all that is drawn.
    """

    recipes: Mapping[str, Recipe]
    num_items: int
    churn: float
    in_a_change: int
    filtered: float
    width: int
    tail: float
    num_queries: int
    k: int
    recall: float
    seed: int

    def rows(self) -> Iterator[dict[str, object]]:
        """One for each index."""
        num = round(self.churn / 2 * self.num_items)
        clouds = Clouds(width=self.width, generator=np.random.default_rng(self.seed))
        items = clouds.items(self.num_items, tail=self.tail).embeddings
        seen, queries = (clouds.queries(self.num_queries).embeddings for _ in range(2))
        new = clouds.items(2 * num, tail=self.tail).embeddings
        rows, touched = np.arange(self.num_items) + 1, np.random.default_rng(self.seed).permutation(self.num_items)
        updated, deleted, added = touched[:num] + 1, touched[num : 2 * num] + 1, np.arange(num) + self.num_items + 1
        after = items.copy()
        after[updated - 1] = new[:num]
        kept = np.setdiff1d(rows, deleted)
        before = HeldOut(items, rows, queries, self.k)
        changed = HeldOut(np.concatenate([after[kept - 1], new[num:]]), np.concatenate([kept, added]), queries, self.k)
        changes = [
            Changes.of(
                np.concatenate([updated[own], added[own]]),
                np.concatenate([new[:num][own], new[num:][own]]),
                deleted=deleted[own],
            )
            for own in (slice(at, at + self.in_a_change) for at in range(0, num, self.in_a_change))
        ]
        for name, recipe in self.recipes.items():
            index = recipe.builder(self.num_items).build(items, rows)
            found, best = Efforts(index, HeldOut(items, rows, seen, self.k), target=self.recall).least()
            index = index.with_effort(min(found or [best], key=lambda own: own.at_once_ms).effort)
            yield {"index": name, **self._measured(recipe, index, changes, before=before, changed=changed)}

    def _measured(
        self, recipe: Recipe, index: ItemIndex, changes: list[Changes], *, before: HeldOut, changed: HeldOut
    ) -> dict[str, object]:
        found = {"effort": " ".join(f"{own}={getattr(index.effort, own)}" for own in index.effort.names)}
        row: dict[str, object] = {**found, **_asked(index, before, "before")}
        with tempfile.TemporaryDirectory() as directory:
            builder, path = recipe.builder(self.num_items), Path(directory) / "changes.log"
            live, follower = (LiveIndex(index, builder=builder, log_path=path, merge_share=NEVER) for _ in range(2))
            row |= self._changed(live, follower, changes)
            row |= _asked(live.snapshot.index, changed, "changed")
            began, began_cpu = time.perf_counter(), time.process_time()
            live.merge()
            row |= {"merge_s": time.perf_counter() - began, "merge_cpu_s": time.process_time() - began_cpu}
            row |= _asked(live.snapshot.index, changed, "merged")
            live.close()
            follower.close()
        return row

    def _changed(self, live: LiveIndex, follower: LiveIndex, changes: list[Changes]) -> dict[str, object]:
        """Wall-clock times of the changes: of one until it is acknowledged, and until one that it added is found."""
        allowed = np.random.default_rng(self.seed).random(2 * self.num_items) < self.filtered
        ready = live.snapshot.only(allowed)
        times, missed = [], 0
        for own in changes:
            newest = own.embeddings[-1:]  # that is added
            began = time.perf_counter()
            live.apply(own)
            acknowledged = time.perf_counter()
            here = live.snapshot.search(newest, k=self.k)
            found = time.perf_counter()
            follower.catch_up()
            elsewhere = follower.snapshot.search(newest, k=self.k)
            ended = time.perf_counter()
            ready = live.snapshot.only(allowed, earlier=ready)
            carried = time.perf_counter()
            live.snapshot.only(allowed)
            anew = time.perf_counter()
            missed += sum(_misses(result, own) for result in (here, elsewhere))
            times.append((acknowledged - began, found - began, ended - began, carried - ended, anew - carried))
        change, there, followed, carry, make = 1e3 * np.array(times).T
        return {
            "num_changes": len(changes),
            "change_ms": np.median(change),
            "change_ms_longest": change.max(),
            "found_ms_longest": there.max(),
            "found_by_follower_ms_longest": followed.max(),
            "added_not_found": missed,
            "filter_carried_ms": np.median(carry),
            "filter_anew_ms": np.median(make),
        }


def _misses(found: SearchResult, changes: Changes) -> bool:
    """Whether the last of the changes, asked for by its own embedding, should stand in the list and does not."""
    product = float(changes.embeddings[-1] @ changes.embeddings[-1])
    return bool(product > (1 + 1e-5) * found.scores[0, -1]) and changes.rows[-1] not in found.rows[0]


def _asked(index: ItemIndex, held_out: HeldOut, when: str) -> dict[str, object]:
    recalls, watch = held_out.recalls(index), Stopwatch(held_out)
    return {
        f"recall_{when}": recalls.mean(),
        f"recall_error_{when}": 1.96 * recalls.std() / np.sqrt(len(recalls)),
        f"ms_{when}": watch.ms(index, turns=TURNS),
        f"exact_ms_{when}": watch.exact_ms,
    }
