"""Items whose first coordinate is their ItemRow, so that a score tells whether it is the right item's.

Owns a catalogue of which some items stay while others come and go, and what a search of it must say meanwhile.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from towers.index.changes import Changes
from towers.index.lists import IvfFlatBuilder
from towers.index.live import LiveIndex
from towers.index.search import NO_RESULT, SearchResult

WIDTH, NUM_FIXED, AT_ONCE = 8, 1000, 10
FIXED = range(2, NUM_FIXED + 2)  # rows of items that stay
QUERY = np.eye(WIDTH, dtype=np.float32)[:1]


def marked(rows: np.ndarray) -> np.ndarray:
    vectors = np.random.default_rng(len(rows)).normal(size=(len(rows), WIDTH)).astype(np.float32)
    vectors[:, 0] = rows
    return vectors


def live_index(log_path: Path, *, merge_share: float) -> LiveIndex:
    builder, rows = IvfFlatBuilder(lists=16, probes=16), np.array(FIXED)
    return LiveIndex(builder.build(marked(rows), rows), builder=builder, log_path=log_path, merge_share=merge_share)


class Window:
    """Rows that come and go: of those from `first` on `deleted` to `added`, exclusive, are there.

    Both are moved on once a change was acknowledged, so what it adds or deletes may be seen earlier.
    """

    def __init__(self, first: int) -> None:
        self.first = self.added = self.deleted = first

    def turn(self, live: LiveIndex) -> None:
        rows = np.arange(AT_ONCE)
        live.apply(Changes.of(self.added + rows, marked(self.added + rows)))
        self.added += AT_ONCE
        if self.added - self.deleted > 5 * AT_ONCE:
            live.apply(Changes.of(deleted=self.deleted + rows))
            self.deleted += AT_ONCE


def fits(found: SearchResult, *, gone: Sequence[range], there: Sequence[range], allowed: np.ndarray | None) -> bool:
    """Whether a search of all items found each once, rightly scored, those that must be there and none that is gone."""
    real = found.rows[0] != NO_RESULT
    own = found.rows[0][real]
    expected = np.concatenate([np.array(rows, np.int64) for rows in (FIXED, *there)])
    if allowed is not None:
        expected = expected[allowed[expected]]
    return bool(
        (found.scores[0][real] == own).all()
        and len(set(own.tolist())) == len(own)
        and not any(((own >= rows.start) & (own < rows.stop)).any() for rows in gone)
        and (allowed is None or allowed[own].all())
        and np.isin(expected, own).all()
    )


class Searchers:
    """Threads that search until they are stopped.

    Args:
        num: of threads.
        search: by the number of a thread; None, or what was wrong.
    """

    def __init__(self, num: int, search: Callable[[int], object]) -> None:
        self._stop = threading.Event()
        self._search = search
        self.wrong: list[object] = []
        self.searches = [0] * num
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(num)]
        for thread in self._threads:
            thread.start()

    def _run(self, place: int) -> None:
        try:
            while not self._stop.is_set():
                if (wrong := self._search(place)) is not None:
                    self.wrong.append(wrong)
                self.searches[place] += 1
        except Exception as error:
            self.wrong.append(error)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
