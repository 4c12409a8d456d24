"""Popularity: the same list for every query, of all time or as of a tick.

Owns the counts as of a day. numpy only: it runs while serving. Who does not beat it has no recommender.
"""

# Shapes: N queries, R rows of the item-day table, V rows of the item table.

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


def popularity_scores(counts: NDArray[Any], *, num_queries: int) -> FloatArray:
    """The counts as scores of every query: [N, V], a read-only view of one row."""
    return np.broadcast_to(counts.astype(np.float32), (num_queries, len(counts)))


def recent_counts(
    *,
    item_rows: IntArray,
    days: IntArray,
    num_events: IntArray,
    tick_day: int,
    window_days: int | None = 30,
    num_rows: int,
) -> NDArray[np.int64]:
    """Events of each item in the days before a tick, [V].

    Args:
        item_rows: [R] item of each row.
        days: [R] days since the epoch, UTC.
        num_events: [R] events of the item on that day.
        tick_day: the tick is at this day's start, so the day itself does not count.
        window_days: days before the tick that count; None = all.
        num_rows: V.

    Raises:
        ValueError: lengths differ, a row is beyond the table, or the window is empty.
    """
    if not item_rows.shape == days.shape == num_events.shape or item_rows.max(initial=0) >= num_rows:
        raise ValueError(
            f"expected equally long item_rows, days and num_events with rows below {num_rows}; got {item_rows.shape}, "
            f"{days.shape}, {num_events.shape}, highest row {item_rows.max(initial=0)}"
        )
    if window_days is not None and window_days < 1:
        raise ValueError(f"window_days must be at least 1, or None for all time; got {window_days}")
    counted = days < tick_day
    if window_days is not None:
        counted &= days >= tick_day - window_days
    counts = np.zeros(num_rows, dtype=np.int64)
    np.add.at(counts, item_rows[counted], num_events[counted])
    return counts


def recent_scores(
    *,
    item_rows: IntArray,
    days: IntArray,
    num_events: IntArray,
    tick_days: IntArray,
    window_days: int | None = 30,
    num_rows: int,
) -> FloatArray:
    """`recent_counts` for queries asked at different ticks, as scores: [N, V].

    Args:
        item_rows: [R] item of each row.
        days: [R] days since the epoch, UTC.
        num_events: [R] events of the item on that day.
        tick_days: [N] the day whose start is the query's last finished tick.
        window_days: days before the tick that count; None = all.
        num_rows: V.
    """
    ticks, tick_of = np.unique(tick_days, return_inverse=True)
    by_tick = np.zeros((len(ticks), num_rows), dtype=np.float32)
    for place, tick in enumerate(ticks):
        by_tick[place] = recent_counts(
            item_rows=item_rows,
            days=days,
            num_events=num_events,
            tick_day=int(tick),
            window_days=window_days,
            num_rows=num_rows,
        )
    return by_tick[tick_of]
