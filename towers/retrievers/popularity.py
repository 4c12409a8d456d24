"""Popularity: the same list for every query, of all time or as of a tick.

Owns the counts as of a day: queries that had an item, each once, for one query that has it every day says nothing of
the others. numpy only. Who does not beat it has no recommender.
"""

# Shapes: N queries, E events, V rows of the item table.

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


def recent_counts(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    days: IntArray,
    tick_day: int,
    window_days: int | None = 30,
    num_rows: int,
) -> NDArray[np.int64]:
    """Queries that had each item in the days before a tick, [V].

    Args:
        query_rows: [E] any number that tells queries apart.
        item_rows: [E] item of each event.
        days: [E] days since the epoch, UTC.
        tick_day: the tick is at this day's start, so the day itself does not count.
        window_days: days before the tick that count; None = all.
        num_rows: V.

    Raises:
        ValueError: lengths differ, a row is beyond the table, or the window is empty.
    """
    if not item_rows.shape == days.shape == query_rows.shape or item_rows.max(initial=0) >= num_rows:
        raise ValueError(
            f"expected equally long query_rows, item_rows and days with rows below {num_rows}; got {query_rows.shape}, "
            f"{item_rows.shape}, {days.shape}, highest row {item_rows.max(initial=0)}"
        )
    if window_days is not None and window_days < 1:
        raise ValueError(f"window_days must be at least 1, or None for all time; got {window_days}")
    counted = days < tick_day
    if window_days is not None:
        counted &= days >= tick_day - window_days
    pairs = np.unique(query_rows[counted] * num_rows + item_rows[counted])
    return np.bincount(pairs % num_rows, minlength=num_rows).astype(np.int64)


def recent_scores(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    days: IntArray,
    tick_days: IntArray,
    window_days: int | None = 30,
    num_rows: int,
) -> FloatArray:
    """`recent_counts` for queries asked at different ticks, as scores: [N, V].

    Args:
        query_rows: [E] any number that tells queries apart.
        item_rows: [E] item of each event.
        days: [E] days since the epoch, UTC.
        tick_days: [N] the day whose start is the query's last finished tick.
        window_days: days before the tick that count; None = all.
        num_rows: V.
    """
    ticks, tick_of = np.unique(tick_days, return_inverse=True)
    by_tick = np.zeros((len(ticks), num_rows), dtype=np.float32)
    for place, tick in enumerate(ticks):
        by_tick[place] = recent_counts(
            query_rows=query_rows,
            item_rows=item_rows,
            days=days,
            tick_day=int(tick),
            window_days=window_days,
            num_rows=num_rows,
        )
    return by_tick[tick_of]
