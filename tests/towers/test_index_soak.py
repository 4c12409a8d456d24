"""A minute of everything at once upon a live index: searches, filters, changes, merges, ticks, deaths of a process."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.towers.marked_items import AT_ONCE, FIXED, NUM_FIXED, QUERY, Searchers, Window, fits, live_index, marked
from tests.towers.test_changes import SPAWN
from towers.index.changes import Changes
from towers.index.live import LiveIndex
from towers.index.search import NO_RESULT

SECONDS, LIVES_S = 60, 8
OTHERS = 100_000  # the first row of the other process
KEPT = 50  # of its rows that are there
UNTOLD = 2  # changes that it may have logged and not lived to acknowledge, one in each of two lives
# Of which a flat copy is made, and which goes by bits.
FILTERS = (np.arange(3 * OTHERS) % 2 == 0, np.arange(3 * OTHERS) % 3 > 0)
ALL = NUM_FIXED + 2 * KEPT + 10 * AT_ONCE  # items that may be there at once


def rows_in(live: LiveIndex) -> np.ndarray:
    rows = live.snapshot.search(QUERY, k=ALL).rows[0]
    return np.sort(rows[rows != NO_RESULT])


def change_forever(directory: Path) -> None:
    """Add a row, delete the one KEPT before it, and write the row down once that is acknowledged."""
    live = live_index(directory / "changes.log", merge_share=0.05)
    last = int(rows_in(live).max())
    with (directory / "acknowledged").open("ab", buffering=0) as file:
        for row in itertools.count(max(last + 1, OTHERS)):
            gone = np.array([row - KEPT]) if row - KEPT >= OTHERS else None
            live.apply(Changes.of(np.array([row]), marked(np.array([row])), deleted=gone))
            file.write(b"%d\n" % row)


def last_acknowledged(directory: Path) -> int:
    path = directory / "acknowledged"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else OTHERS - 1


@pytest.mark.slow
def test_nothing_wrong_is_found_and_nothing_acknowledged_is_lost_through_a_minute_of_everything(tmp_path):
    live = live_index(tmp_path / "changes.log", merge_share=0.05)
    window, ready = Window(2000), {place: live.snapshot.only(FILTERS[place // 8]) for place in range(16)}
    followed = {"to": OTHERS - 1}  # the other's last row that was acknowledged before this process caught up

    def search(place: int) -> object:
        gone, there, theirs = window.deleted, window.added, followed["to"]
        snapshot, allowed = live.snapshot, FILTERS[place // 8] if place % 4 < 2 else None
        if allowed is not None and place % 4:
            ready[place] = snapshot.only(allowed, earlier=ready[place])
            found = ready[place].search(QUERY, k=ALL)
        else:
            found = snapshot.search(QUERY, k=ALL, allowed=allowed)
        # A change of this process may have been made and not yet acknowledged, and UNTOLD of the other's.
        kept = range(window.deleted + AT_ONCE, there)
        others = range(max(OTHERS, last_acknowledged(tmp_path) + UNTOLD + 1 - KEPT), theirs + 1)
        passed = [range(window.first, gone), range(OTHERS, theirs + 1 - KEPT)]
        ok = fits(found, gone=passed, there=[kept, others], allowed=allowed)
        return None if ok else (place, passed, kept, others, found.rows[0][:60])

    stop, ticks, failed = threading.Event(), itertools.count(), []

    def tick() -> None:
        try:
            while not stop.wait(0.7):
                live.tick(np.full(3 * OTHERS, next(ticks), np.float32))
        except Exception as error:
            failed.append(error)

    ticking = threading.Thread(target=tick)
    ticking.start()
    searchers, bases, deaths = Searchers(16, search), set(), 0
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            process = SPAWN.Process(target=change_forever, args=(tmp_path,))
            process.start()
            lives_until = min(until, time.monotonic() + LIVES_S)
            while time.monotonic() < lives_until:
                window.turn(live)
                theirs = last_acknowledged(tmp_path)
                live.catch_up()
                followed["to"] = theirs
                bases.add(id(live.snapshot.base.parts[0].structure))
            process.kill()
            process.join()
            deaths += 1
    finally:
        stop.set()
        searchers.stop()
        ticking.join()
        process.kill()
    live.catch_up()
    found = rows_in(live).tolist()
    last, told = max(*found, OTHERS - 1), last_acknowledged(tmp_path)
    expected = [*FIXED, *range(window.deleted, window.added), *range(max(OTHERS, last + 1 - KEPT), last + 1)]
    assert searchers.wrong == []
    assert failed == []
    assert told <= last <= told + UNTOLD
    assert found == expected
    again = live_index(tmp_path / "changes.log", merge_share=0.05)
    assert rows_in(again).tolist() == expected
    for own in (live, again):
        own.close()
    assert last > OTHERS + 10 * KEPT
    assert (min(searchers.searches) > 10, deaths >= 5, next(ticks) > 20, len(bases) > 20) == (True,) * 4
