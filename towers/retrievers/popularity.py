"""Popularity: the same list for every query, of all time or as of a tick.

Owns the counts as of a day: queries that had an item, each once, for one query that has it every day says nothing of
the others; and the retriever that serves, which has the item aggregates of its release alone and so counts events.
numpy only. Who does not beat it has no recommender.
"""

# Shapes: N queries, E events, V rows of the item table, M rows that are asked for.

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.statistics import STATISTICS
from features.vocab import FIRST

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Popular:
    """What is popular as of a tick: ln(1 + events of the last week + those of a day of the last month).

    The month decides among items that nobody chose this week, as most are in a large catalogue.
    """

    scores: NDArray[np.float64]  # [V]
    order: NDArray[np.int64]  # rows that score, best first

    @classmethod
    def as_of(cls, statistics: NDArray[np.floating[Any]]) -> Self:
        """From the item aggregates of one tick, [V, len(STATISTICS)]."""
        week, month = (statistics[:, STATISTICS.index(name)].astype(np.float64) for name in ("count_7d", "count_30d"))
        scores = np.log1p(np.maximum(week + month / 30.0, 0.0))
        scores[:FIRST] = 0.0
        order = np.argsort(-scores, kind="stable")
        return cls(scores=scores, order=order[: np.count_nonzero(scores)])

    def best(self, *, k: int, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The k most popular of the allowed rows, best first; equals by row.

        Args:
            k: at most so many.
            allowed: [V] which rows may be brought.
        """
        found, start = self.order[:0], 0
        while len(found) < k and start < len(self.order):  # mostly once: what is popular is mostly allowed
            part = self.order[start : start + 2 * k]
            found = np.concatenate([found, part[allowed[part]]])
            start += 2 * k
        return found[:k]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score of each row [M]; 0 of one that came after the tick."""
        known = rows < len(self.scores)
        return np.where(known, self.scores[np.where(known, rows, 0)], 0.0)


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
