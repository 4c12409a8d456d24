"""Item aggregates as of a refresh tick: what training, evaluation and a release may know of an item's popularity.

Owns the columns of `ItemStatistics`. An aggregate at a request is that of the last finished tick, never of the very
event, so that serving, whose aggregates are refreshed once a tick, sees the numbers that training saw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.spec import DAY_MS

WINDOWS_DAYS = (7, 30)
STATISTICS = ("count_all", *(f"count_{days}d" for days in WINDOWS_DAYS), "value_mean", "idle_days", "age_days")
NEVER_DAYS = 365.0


@dataclass(frozen=True)
class ItemDays:
    """Events an item had on a day, one row an item and day.

    Attributes:
        rows: [E] ItemRow.
        days: [E] days since the epoch, UTC.
        counts: [E] events.
        value_sums: [E] sum of the events' values.
        num_rows: rows of the item table.
    """

    rows: NDArray[np.int64]
    days: NDArray[np.int64]
    counts: NDArray[np.float64]
    value_sums: NDArray[np.float64]
    num_rows: int

    def as_of(self, day: int) -> NDArray[np.float32]:
        """Statistics [num_rows, len(STATISTICS)] from events strictly before `day`; a mean is shrunk by 5 events."""
        past = self.days < day
        rows, days, counts, value_sums = self.rows[past], self.days[past], self.counts[past], self.value_sums[past]
        columns = [np.bincount(rows, weights=counts, minlength=self.num_rows)]
        for window in WINDOWS_DAYS:
            recent = days >= day - window
            columns.append(np.bincount(rows[recent], weights=counts[recent], minlength=self.num_rows))
        total = np.bincount(rows, weights=value_sums, minlength=self.num_rows)
        prior = value_sums.sum() / max(counts.sum(), 1.0)
        columns.append((total + 5.0 * prior) / (columns[0] + 5.0))
        for reduce, start in ((np.maximum, -np.inf), (np.minimum, np.inf)):
            extreme = np.full(self.num_rows, start)
            reduce.at(extreme, rows, days.astype(np.float64))
            columns.append(np.where(np.isfinite(extreme), np.minimum(day - extreme, NEVER_DAYS), NEVER_DAYS))
        return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class ItemStatistics:
    """Statistics at several ticks.

    Attributes:
        ticks_at_ms: [T] when each tick finished, ascending.
        values: [T, R, len(STATISTICS)] float32.
    """

    ticks_at_ms: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def at_requests(cls, days: ItemDays, *, requested_at_ms: NDArray[np.int64], tick_ms: int) -> "ItemStatistics":
        """All ticks that the given requests need."""
        ticks = np.unique(requested_at_ms // tick_ms) * tick_ms
        values = np.stack([days.as_of(int(tick // DAY_MS)) for tick in ticks])
        return cls(ticks_at_ms=ticks, values=values)

    def ticks(self, requested_at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] place of the last tick finished at each request; a request before the first tick gets the first."""
        return np.maximum(np.searchsorted(self.ticks_at_ms, requested_at_ms, side="right") - 1, 0)
