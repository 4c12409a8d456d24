"""Item aggregates as of a refresh tick: what training, evaluation and a release may know of an item's popularity.

Owns the columns of `ItemStatistics`. An aggregate at a request is that of the last finished tick, never of the very
event, so that serving, whose aggregates are refreshed once a tick, sees the numbers that training saw.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.spec import DAY_MS
from features.vocab import UNKNOWN

WINDOWS_DAYS = (1, 7, 30)
STATISTICS = ("count_all", *(f"count_{days}d" for days in WINDOWS_DAYS), "value_mean", "idle_days", "age_days")
NEVER_DAYS = 365.0


@dataclass(frozen=True)
class ItemDays:
    """Events an item had on a day, one row an item and day.

    Attributes:
        rows: [E] ItemRow.
        days: [E] days since the epoch, UTC.
        counts: [E] events, whatever they say.
        positives: [E] events with relevance above 0: what popularity counts.
        value_sums: [E] sum of the events' values.
        available_days: [R] day from which each row of the item table can be had; nan where nobody says.
    """

    rows: NDArray[np.int64]
    days: NDArray[np.int64]
    counts: NDArray[np.float64]
    positives: NDArray[np.float64]
    value_sums: NDArray[np.float64]
    available_days: NDArray[np.float64]

    @property
    def num_rows(self) -> int:
        """Rows of the item table."""
        return len(self.available_days)

    @cached_property
    def _by_day(self) -> "ItemDays":
        """The same with ascending days, which is how the ETL writes them: a tick's part is then a slice."""
        if (np.diff(self.days) >= 0).all():
            return self
        order = np.argsort(self.days, kind="stable")
        ordered = {name: getattr(self, name)[order] for name in ("rows", "days", "counts", "positives", "value_sums")}
        return replace(self, **ordered)

    def as_of(self, day: int) -> NDArray[np.float32]:
        """Statistics [num_rows, len(STATISTICS)] from events strictly before `day`; a mean is shrunk by 5 events."""
        log = self._by_day
        stop = int(np.searchsorted(log.days, day))
        rows, days, counts, value_sums = log.rows[:stop], log.days[:stop], log.counts[:stop], log.value_sums[:stop]
        positives = log.positives[:stop]
        num_events = np.bincount(rows, weights=counts, minlength=self.num_rows)
        columns: dict[str, NDArray[np.float64]] = {
            "count_all": np.bincount(rows, weights=positives, minlength=self.num_rows).astype(np.float64)
        }
        for window in WINDOWS_DAYS:
            recent = slice(int(np.searchsorted(days, day - window)), None)
            count = np.bincount(rows[recent], weights=positives[recent], minlength=self.num_rows)
            columns[f"count_{window}d"] = count.astype(np.float64)
        total = np.bincount(rows, weights=value_sums, minlength=self.num_rows)
        # Added up in the order of the rows, so that the same table gives the same last bit wherever it is refreshed.
        prior = np.cumsum(total)[-1] / max(counts.sum(), 1.0)
        columns["value_mean"] = (total + 5.0 * prior) / (num_events + 5.0)
        last, first = np.full(self.num_rows, -np.inf), np.full(self.num_rows, np.inf)
        last[rows] = days  # of several days of a row the last one stays
        first[rows[::-1]] = days[::-1]
        columns["idle_days"] = _since(last, day)
        # What is offered before its first event, or long before the log begins, has the age of the offer.
        columns["age_days"] = _since(np.where(np.isnan(self.available_days), first, self.available_days), day)
        return np.stack([columns[name] for name in STATISTICS], axis=1).astype(np.float32)


def _since(days: NDArray[np.float64], day: int) -> NDArray[np.float64]:
    """Days from each of `days` to `day`, at most NEVER_DAYS; that many where there is none."""
    return np.where(np.isfinite(days), np.clip(day - days, 0.0, NEVER_DAYS), NEVER_DAYS)


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
        values = np.zeros((len(ticks), days.num_rows, len(STATISTICS)), dtype=np.float32)
        for place, tick in enumerate(ticks):
            values[place] = days.as_of(int(tick // DAY_MS))
        return cls(ticks_at_ms=ticks, values=values)

    def of(self, ticks: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of items at places of ticks, which are broadcast together: [..., len(STATISTICS)].

        A row beyond the table is an item that came since: like the unknown one, it has had no event.
        """
        return self.values[ticks, np.where(rows < self.values.shape[1], rows, UNKNOWN)]

    def at(self, place: int) -> "ItemStatistics":
        """Those of one of the ticks."""
        own = slice(place, place + 1)
        return ItemStatistics(ticks_at_ms=self.ticks_at_ms[own], values=self.values[own])

    def ticks(self, requested_at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] place of the last tick finished at each request; a request before the first tick gets the first."""
        return np.maximum(np.searchsorted(self.ticks_at_ms, requested_at_ms, side="right") - 1, 0)
