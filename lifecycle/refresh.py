"""The job of a refresh tick: a release delta with the items' new aggregates, and the queries' new states online.

Owns which tick is the newest finished one, and that doing it twice changes nothing. Deltas are serving/deltas.py's, the
online store is features/stores/online_store.py's; servers take both up by themselves.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.catalogue import Catalogue
from features.dataset import Dataset
from features.spec import DAY_MS, FeatureSpec
from features.split import SPLITS
from features.statistics import ItemDays, ItemStatistics
from features.stores.offline_store import write_query_states
from features.stores.state_writer import materialize_new
from features.vocab import FIRST
from lifecycle.steps import exclusive
from serving.release import Release


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        tick_at_ms: of the release's item aggregates now.
        delta: number of its newest delta; 0 where its own tick is as new.
        is_new_delta: whether this call wrote it.
        num_queries: whose states in the online store are newer now.
    """

    tick_at_ms: int
    delta: int
    is_new_delta: bool
    num_queries: int


def refresh(
    *, dataset: Dataset, data_dir: Path, release_dir: Path, store_dir: Path, until_at_ms: int | None = None
) -> Refreshed:
    """Bring a release and an online store up to an instant; where both are that new nothing is written.

    Args:
        dataset: the prepared log.
        data_dir: where it lies.
        release_dir: of the release, which stays as it is.
        store_dir: of the online store that the release's queries are read from.
        until_at_ms: the newest instant whose events count; None: all events, and the log's last day is over.

    Raises:
        ServingError, FeaturesError: the release, its deltas or the store cannot be read or written.
        Occupied: another refresh of this release is running.
    """
    before = Release.open(release_dir)
    before.deltas.directory.mkdir(parents=True, exist_ok=True)
    with exclusive(before.deltas.directory / ".lock"):
        before = Release.open(release_dir)
        release = refresh_release(
            before,
            days=item_days(dataset, catalogue=before.stage1.catalogue),
            tick_at_ms=newest_tick(dataset, tick_ms=before.spec.tick_ms, until_at_ms=until_at_ms),
        )
        num_queries = refresh_store(data_dir, store_dir, spec=release.spec, until_at_ms=until_at_ms)
    return Refreshed(
        tick_at_ms=release.tick_at_ms,
        delta=release.delta,
        is_new_delta=release.delta > before.delta,
        num_queries=num_queries,
    )


def refresh_release(release: Release, *, days: ItemDays, tick_at_ms: int) -> Release:
    """Write the delta of a tick unless the release is as of that or a later one; returns the release with it.

    Args:
        release: as servers see it.
        days: of its catalogue, see `item_days`.
        tick_at_ms: events before it count.
    """
    if tick_at_ms <= release.tick_at_ms:
        return release
    values = days.as_of(tick_at_ms // DAY_MS)
    deltas = release.deltas
    number = deltas.write(ItemStatistics(ticks_at_ms=np.array([tick_at_ms]), values=values[None]))
    return release.with_delta(deltas.read(number))


def refresh_store(data_dir: Path, store_dir: Path, *, spec: FeatureSpec, until_at_ms: int | None) -> int:
    """Write the queries' states after all events up to an instant to the online store; returns how many were newer."""
    events, queries = (pq.read_table(data_dir / "tables" / f"{name}.parquet") for name in ("events", "queries"))
    if until_at_ms is not None:
        events = events.filter(pc.less_equal(events["occurred_at_ms"], until_at_ms))
    with tempfile.TemporaryDirectory(prefix="twostage-refresh-") as work_dir:
        states = Path(work_dir) / "states.parquet"
        write_query_states(states, events=events, queries=queries, spec=spec, latest_only=True)
        return materialize_new(store_dir, states=states).num_written


def newest_tick(dataset: Dataset, *, tick_ms: int, until_at_ms: int | None) -> int:
    """The last tick that finished by an instant; without one, by the end of the log's last day.

    What arrives after its tick was refreshed counts from the next one on.
    """
    if until_at_ms is None:
        until_at_ms = (int(dataset.events.at_ms.max(initial=0)) // DAY_MS + 1) * DAY_MS
    return until_at_ms // tick_ms * tick_ms


def item_days(dataset: Dataset, *, catalogue: Catalogue) -> ItemDays:
    """Daily counts of all events in the rows of a release's catalogue; items that it does not have are left out.

    Of events of every split: they have happened.
    """
    days = dataset.days(SPLITS)
    if catalogue.item_ids == dataset.items.catalogue.item_ids:
        return days
    row_of = np.concatenate([np.arange(FIRST), catalogue.rows(dataset.items.catalogue.item_ids)])
    known = row_of >= FIRST
    available_days = np.full(len(catalogue), np.nan)
    available_days[row_of[known]] = days.available_days[known]
    kept = known[days.rows]
    return ItemDays(
        rows=row_of[days.rows[kept]],
        days=days.days[kept],
        counts=days.counts[kept],
        positives=days.positives[kept],
        value_sums=days.value_sums[kept],
        available_days=available_days,
    )
