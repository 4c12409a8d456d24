"""Item statistics of sampled events, each as of the last tick before it.

Owns keeping that cheap: the items outside the sample are summed up as one, whose events only the prior of a mean needs,
and where a log has more ticks than there is time for, a drawn part of them is looked at.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.spec import DAY_MS
from features.statistics import STATISTICS, ItemDays
from lifecycle.cuts import REFIT
from lifecycle.data_report.log import Log

MAX_ROWS_READ = 50_000_000  # of item days, over all ticks: some 2 s
NUMBERS = ("num_events", "num_positive", "value_sum")


def statistics_of(
    log: Log,
    places: NDArray[np.int64],
    *,
    tables_dir: Path,
    tick_days: int,
    generator: np.random.Generator,
    max_rows_read: int = MAX_ROWS_READ,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Statistics [K, len(STATISTICS)] of the events' items, and [K] which of `places` they are for.

    Args:
        log: the events.
        places: of the sampled ones.
        tables_dir: where item_days and items lie.
        tick_days: item aggregates are refreshed so often.
        generator: draws ticks where there are too many.
        max_rows_read: item days that may be read over all ticks.
    """
    codes, rows = np.unique(log.items.codes[places], return_inverse=True)
    days = item_days(tables_dir, item_ids=[log.items.values[code] for code in codes])
    tick_ms = tick_days * DAY_MS
    ticks = log.at_ms[places] // tick_ms * tick_ms // DAY_MS
    chosen = np.unique(ticks)
    num_affordable = max(max_rows_read // max(len(days.rows), 1), 1)
    if len(chosen) > num_affordable:
        chosen = np.sort(generator.choice(chosen, num_affordable, replace=False))
    found = [(at, days.as_of(int(tick))[rows[at]]) for tick in chosen for at in (np.flatnonzero(ticks == tick),)]
    if not found:
        return np.zeros((0, len(STATISTICS)), dtype=np.float32), np.zeros(0, dtype=np.int64)
    kept = np.concatenate([at for at, _ in found])
    order = np.argsort(kept)
    return np.concatenate([values for _, values in found])[order], kept[order]


def item_days(tables_dir: Path, *, item_ids: list[str]) -> ItemDays:
    """Daily counts of the given items, in rows 0 to len(item_ids) - 1, and of all others together in the last row.

    They are of every event that a released model knows.
    """
    table = pq.read_table(tables_dir / "item_days.parquet", read_dictionary=["item_id", "split"])
    table = table.filter(pc.is_in(table["split"].cast(pa.string()), value_set=pa.array(REFIT.splits)))
    ids = pa.array(item_ids, pa.string())
    row = pc.fill_null(pc.index_in(table["item_id"].cast(pa.string()), value_set=ids), len(item_ids)).to_numpy()
    day = table["day"].to_numpy().astype(np.int64)
    # One row an item and day, whatever the splits.
    first_day = int(day.min(initial=0))
    width = int(day.max(initial=0)) - first_day + 1
    keys, inverse = np.unique(row * np.int64(width) + (day - first_day), return_inverse=True)
    counts, positives, value_sums = (
        np.bincount(inverse, weights=table[name].to_numpy().astype(np.float64), minlength=len(keys)).astype(np.float64)
        for name in NUMBERS
    )
    items = pq.read_table(tables_dir / "items.parquet", columns=["item_id", "available_from"])
    of_item = pc.index_in(ids, value_set=items["item_id"].combine_chunks())
    at_ms = items["available_from"].cast(pa.int64()).take(of_item).cast(pa.float64()).to_numpy()
    return ItemDays(
        rows=keys // width,
        days=keys % width + first_day,
        counts=counts,
        positives=positives,
        value_sums=value_sums,
        available_days=np.r_[np.floor(at_ms / DAY_MS), np.nan],
    )
