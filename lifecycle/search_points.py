"""Operating points of any search: recall on all queries, and processor time in turns with exact search.

Owns the measure, one for our index and for peers, who import it with their own interpreters: numpy and Faiss alone.
"""

# Shapes: P items, Q queries, D width.

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towers.index.operate import one_thread
from towers.index.recall import HeldOut

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Search = Callable[[FloatArray], IntArray]  # a query [1, D] -> ItemRows [k] or fewer, best first

ITEMS_FILE, TUNED_FILE, ASKED_FILE = "items.npy", "tuned_queries.npy", "queries.npy"
COLUMNS = ("said", "recall", "recall_error", "ms", "exact_ms", "speed_up", "speed_low", "speed_high", "build_s")
WARM_UP, IN_A_TURN, EXACT_IN_A_TURN = 4, 16, 4  # queries


def read_vectors(folder: Path, *, queries: str, k: int) -> HeldOut:
    """What bench_index.py wrote; ItemRows are places and 1."""
    items = np.load(folder / ITEMS_FILE)
    return HeldOut(items, np.arange(len(items)) + 1, np.load(folder / queries), k)


@dataclass(frozen=True, eq=False)
class Course:
    """Queries that every search is asked, with exact search beside it.

    Attributes:
        asked: items and queries.
        turns: of each search, exact search in between.
        path: of the table, to which each point is added at once.
    """

    asked: HeldOut
    turns: int
    path: Path

    def __post_init__(self) -> None:
        """Begin the table."""
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def measure(self, search: Search, *, settings: Mapping[str, Any], build_s: float) -> float:
        """Add a search to the table, and return its recall.

        Args:
            search: answers one query.
            settings: it was built with and is searched with.
            build_s: processor seconds that building took.
        """
        queries = self.asked.queries
        with one_thread():
            found = np.zeros((len(queries), self.asked.k), np.int64)
            for query, own in zip(queries, found, strict=True):
                rows = search(query[None])
                own[: len(rows)] = rows
            times = np.array([(self._turn(search, n), self._exact_turn(n)) for n in range(self.turns)])
        recalls = self.asked.shares(found)
        own_ms, exact_ms = np.median(times, axis=0)
        low, middle, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
        error = recalls.std() / np.sqrt(len(recalls))
        said = ", ".join(f"{name} {value}" for name, value in settings.items())
        row = [
            said,
            *(f"{value:.6g}" for value in (recalls.mean(), error, own_ms, exact_ms, middle, low, high, build_s)),
        ]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        return float(recalls.mean())

    @cached_property
    def exact_ms(self) -> dict[str, float]:
        """Of each exact search: by BLAS and by Faiss."""
        with one_thread():
            turns = [[self._turn(search, n) for search in self._exact.values()] for n in range(self.turns)]
        return dict(zip(self._exact, np.median(turns, axis=0).tolist(), strict=True))

    def _exact_turn(self, n: int) -> float:
        name = min(self.exact_ms, key=lambda own: self.exact_ms[own])  # what is faster here is the measure
        return self._turn(self._exact[name], n, num=EXACT_IN_A_TURN)

    @property
    def _exact(self) -> dict[str, Search]:
        return {"blas": partial(by_blas, self.asked.items, k=self.asked.k), "faiss": self._by_faiss}

    def _by_faiss(self, query: FloatArray) -> IntArray:
        part, k = self.asked.exact.parts[0], self.asked.k
        rows: IntArray = part.structure.search(query, k, k=k, effort=part.effort, passing=None)[1][0] + 1
        return rows

    def _turn(self, search: Search, n: int, *, num: int = IN_A_TURN) -> float:
        queries, times = self.asked.queries, []
        for place in range(n * IN_A_TURN, n * IN_A_TURN + WARM_UP + num):
            query = queries[place % len(queries)][None]
            began = time.thread_time()
            search(query)
            times.append(time.thread_time() - began)
        return 1e3 * float(np.median(times[WARM_UP:]))


def by_blas(items: FloatArray, query: FloatArray, *, k: int) -> IntArray:
    """Exact search by a product with all items and a partial sort."""
    scores = items @ query[0]
    best = np.argpartition(scores, -k)[-k:]
    rows: IntArray = best[np.argsort(-scores[best])] + 1
    return rows
