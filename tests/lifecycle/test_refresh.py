import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.catalogue import Catalogue
from features.spec import DAY_MS
from features.split import SPLITS
from features.statistics import STATISTICS
from features.stores.materialize import materialize
from features.stores.offline_store import write_query_states
from features.stores.online_store import OnlineStore
from features.vocab import FIRST
from lifecycle.refresh import Refreshed, item_days, newest_tick, refresh
from lifecycle.steps import Occupied, exclusive
from serving.deltas import STATISTICS_FILE
from serving.release import Release, verify

pytestmark = pytest.mark.timeout(300)

FIRST_DAY, NUM_DAYS = 10_000, 12


@pytest.fixture
def release_dir(shop: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.release_dir, tmp_path / "release"))


@pytest.fixture
def store_dir(shop: Any, tmp_path: Path) -> Path:
    """A store as it was when the log's third day began."""
    tables, store_dir = shop.data_dir / "tables", tmp_path / "store"
    write_query_states(
        tmp_path / "states.parquet",
        events=pq.read_table(tables / "events.parquet"),
        queries=pq.read_table(tables / "queries.parquet"),
        spec=Release.open(shop.release_dir).spec,
    )
    materialize(store_dir, states=tmp_path / "states.parquet", until_at_ms=(FIRST_DAY + 2) * DAY_MS)
    return store_dir


def refreshed(shop: Any, release_dir: Path, store_dir: Path, until_at_ms: int | None = None) -> Refreshed:
    return refresh(
        dataset=shop.dataset,
        data_dir=shop.data_dir,
        release_dir=release_dir,
        store_dir=store_dir,
        until_at_ms=until_at_ms,
    )


def by_hand(shop: Any, *, before_day: int) -> dict[str, np.ndarray]:
    """Some aggregates of every row, counted one event after the other."""
    log, catalogue = shop.dataset.events, shop.dataset.items.catalogue
    counts = {name: np.zeros(len(catalogue)) for name in ("count_all", "count_7d")}
    idle = np.full(len(catalogue), 365.0)
    for item_id, at_ms, relevance in zip(log.item_ids, log.at_ms, log.relevance, strict=True):
        day, row = at_ms // DAY_MS, catalogue.row(item_id)
        if day < before_day:
            idle[row] = min(idle[row], before_day - day)
            counts["count_all"][row] += relevance > 0
            counts["count_7d"][row] += relevance > 0 and day >= before_day - 7
    return {**counts, "idle_days": idle}


def test_a_refresh_brings_the_release_and_the_store_up_to_the_instant(
    shop: Any, release_dir: Path, store_dir: Path
) -> None:
    manifest = verify(release_dir)
    # Noon of the log's ninth day: the newest finished tick is that day's beginning.
    until_at_ms = (FIRST_DAY + 8) * DAY_MS + DAY_MS // 2
    done = refreshed(shop, release_dir, store_dir, until_at_ms)
    assert done.tick_at_ms == (FIRST_DAY + 8) * DAY_MS
    assert (done.delta, done.is_new_delta) == (1, True)
    assert verify(release_dir) == manifest

    values = Release.open(release_dir).stage1.statistics.values[0]
    for name, expected in by_hand(shop, before_day=FIRST_DAY + 8).items():
        np.testing.assert_array_equal(values[:, STATISTICS.index(name)], expected, err_msg=name)

    log = shop.dataset.events
    stops = log.offsets[:-1] + [
        int((log.at_ms[start:stop] <= until_at_ms).sum())
        for start, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True)
    ]
    queries = np.arange(len(log.query_ids))
    requested_at_ms = np.full(len(queries), until_at_ms + 1)
    expected_states = shop.dataset.states(queries, stops, requested_at_ms=requested_at_ms, length=15)
    states, known = OnlineStore.open(store_dir).read(log.query_ids, requested_at_ms=requested_at_ms.tolist())
    assert all(known)
    assert states.history_item_ids == expected_states.history_item_ids
    assert states.history_at_ms == expected_states.history_at_ms


def test_the_same_tick_again_writes_nothing(shop: Any, release_dir: Path, store_dir: Path) -> None:
    until_at_ms = (FIRST_DAY + 5) * DAY_MS
    first = refreshed(shop, release_dir, store_dir, until_at_ms)
    deltas = Release.open(release_dir).deltas
    before = {path: path.stat().st_mtime_ns for path in deltas.directory.rglob("*")}
    again = refreshed(shop, release_dir, store_dir, until_at_ms)
    assert again == dataclasses.replace(first, is_new_delta=False, num_queries=0)
    assert {path: path.stat().st_mtime_ns for path in deltas.directory.rglob("*")} == before


def test_without_an_instant_all_events_count(shop: Any, release_dir: Path, store_dir: Path) -> None:
    done = refreshed(shop, release_dir, store_dir)
    assert done.tick_at_ms == (FIRST_DAY + NUM_DAYS) * DAY_MS
    values = Release.open(release_dir).stage1.statistics.values[0]
    assert values[:, STATISTICS.index("count_all")].sum() == (shop.dataset.events.relevance > 0).sum()
    assert refreshed(shop, release_dir, store_dir, (FIRST_DAY + 3) * DAY_MS).is_new_delta is False  # never back


def test_ticks_follow_one_another_and_a_damaged_one_is_made_again(
    shop: Any, release_dir: Path, store_dir: Path
) -> None:
    for number, day in enumerate(range(FIRST_DAY + 2, FIRST_DAY + 5), start=1):
        assert refreshed(shop, release_dir, store_dir, day * DAY_MS).delta == number
    deltas = Release.open(release_dir).deltas
    damaged = deltas.path(3) / STATISTICS_FILE
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = refreshed(shop, release_dir, store_dir, (FIRST_DAY + 4) * DAY_MS)
    assert (done.delta, done.is_new_delta, done.tick_at_ms) == (4, True, (FIRST_DAY + 4) * DAY_MS)


def test_only_one_refresh_at_a_time(shop: Any, release_dir: Path, store_dir: Path) -> None:
    deltas = Release.open(release_dir).deltas
    deltas.directory.mkdir(parents=True)
    with exclusive(deltas.directory / ".lock"), pytest.raises(Occupied, match="another process holds"):
        refreshed(shop, release_dir, store_dir)
    assert deltas.newest == 0


@pytest.mark.parametrize(
    ("until_at_ms", "tick_days", "expected_day"),
    [
        (FIRST_DAY * DAY_MS, 1, FIRST_DAY),
        (FIRST_DAY * DAY_MS - 1, 1, FIRST_DAY - 1),
        (None, 1, FIRST_DAY + NUM_DAYS),
        (FIRST_DAY * DAY_MS, 7, FIRST_DAY // 7 * 7),
    ],
)
def test_the_newest_tick_is_the_last_that_finished(
    shop: Any, until_at_ms: int | None, tick_days: int, expected_day: int
) -> None:
    tick = newest_tick(shop.dataset, tick_ms=tick_days * DAY_MS, until_at_ms=until_at_ms)
    assert tick == expected_day * DAY_MS


def test_rows_are_those_of_the_releases_catalogue(shop: Any) -> None:
    item_ids = shop.dataset.items.catalogue.item_ids
    same = item_days(shop.dataset, catalogue=Catalogue(item_ids))
    kept = item_ids[:0:-3]  # other rows, fewer items
    days = item_days(shop.dataset, catalogue=Catalogue(kept))
    values, expected = days.as_of(FIRST_DAY + 6), same.as_of(FIRST_DAY + 6)
    rows = shop.dataset.items.catalogue.rows(kept)
    for name in ("count_all", "count_1d", "idle_days", "age_days"):
        place = STATISTICS.index(name)
        np.testing.assert_array_equal(values[FIRST:, place], expected[rows, place], err_msg=name)
    assert not values[:FIRST, STATISTICS.index("count_all")].any()
    assert set(shop.dataset.events.splits) == set(SPLITS)
