"""When the events happened: by split, by kind, by hour of the week.

Owns the width of a bar in time and what counts as a calendar. Draws nothing.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.context import EPOCH_WEEKDAY, HOUR_MS
from features.sources.files import FIRST_MADE_AT_MS
from features.spec import DAY_MS
from features.split import SPLITS
from lifecycle.data_report.log import Coded, Log

WIDTHS_MS = (60_000, 600_000, HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS, 91 * DAY_MS, 364 * DAY_MS)
MAX_BINS = 100
KINDS_SHOWN = 5
OTHER_KINDS = "other"
SECOND_MS = 1000


@dataclass(frozen=True)
class Bins:
    """Bars of equal width in time.

    Attributes:
        width_ms: of a bar.
        edges_ms: [B + 1], multiples of the width.
    """

    width_ms: int
    edges_ms: NDArray[np.int64]

    def count(self, at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] instants in each bar."""
        places = (at_ms - self.edges_ms[0]) // self.width_ms
        return np.bincount(places, minlength=len(self.edges_ms) - 1).astype(np.int64)

    def names(self) -> pd.MultiIndex:
        """The instants at which each bar starts and ends."""
        return pd.MultiIndex.from_arrays([self.edges_ms[:-1], self.edges_ms[1:]], names=["start_ms", "end_ms"])


def has_calendar(log: Log) -> bool:
    """Whether the events' times are those of a clock, and not made from an order."""
    return len(log) > 0 and int(log.at_ms.min()) != FIRST_MADE_AT_MS


def bins_of(log: Log) -> Bins:
    """At most MAX_BINS bars, as narrow as that allows; of at least one event."""
    first, last = int(log.at_ms.min()), int(log.at_ms.max())
    if has_calendar(log):
        widths = [*WIDTHS_MS, *(364 * DAY_MS * times for times in (10, 100, 1000))]
    else:
        widths = [SECOND_MS * 10**digits for digits in range(12)]
    width = next(width for width in widths if last // width - first // width < MAX_BINS)
    edges = np.arange(first // width, last // width + 2, dtype=np.int64) * width
    return Bins(width_ms=width, edges_ms=edges)


def by_split(log: Log, bins: Bins) -> pd.DataFrame:
    """Events a bar, which is named by its start_ms and end_ms: one column a split that has events."""
    counts = {
        name: bins.count(log.at_ms[log.splits == code])
        for code, name in enumerate(SPLITS)
        if (log.splits == code).any()
    }
    return pd.DataFrame(counts, index=bins.names())


def by_kind(log: Log, bins: Bins) -> pd.DataFrame:
    """Events a bar, as `by_split`: one column a kind of event, the most frequent ones first, the rest together."""
    kinds = _shown_kinds(log.kinds)
    counts = {name: bins.count(log.at_ms[kinds.codes == code]) for code, name in enumerate(kinds.values)}
    return pd.DataFrame(counts, index=bins.names())


def spans(log: Log) -> pd.DataFrame:
    """One row a split that has events: split, num_events, and when its first, middle and last events happened, in ms.

    `low_ms` and `high_ms` enclose the middle 80 %.
    """
    rows = []
    for code, name in enumerate(SPLITS):
        at_ms = log.at_ms[log.splits == code]
        if len(at_ms):
            ends = np.quantile(at_ms, [0.0, 0.1, 0.5, 0.9, 1.0], method="nearest").tolist()
            rows.append((name, len(at_ms), *ends))
    columns = ["split", "num_events", "first_ms", "low_ms", "middle_ms", "high_ms", "last_ms"]
    return pd.DataFrame(rows, columns=columns)


def cuts(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Splits that begin after all earlier ones have ended, with their first instant; `table` is from `spans`."""
    rows = table.to_dict("records")
    return [
        (str(row["split"]), int(row["first_ms"]))
        for place, row in enumerate(rows)
        if place and all(earlier["last_ms"] < row["first_ms"] for earlier in rows[:place])
    ]


def by_hour(log: Log) -> NDArray[np.int64]:
    """[7, 24] events by weekday, from Monday, and hour, UTC."""
    weekday, hour = (log.at_ms // DAY_MS + EPOCH_WEEKDAY) % 7, (log.at_ms // HOUR_MS) % 24
    return np.bincount(weekday * 24 + hour, minlength=7 * 24).reshape(7, 24)


def by_day(log: Log) -> pd.DataFrame:
    """Days with events, since the epoch and UTC, and their events."""
    days, numbers = np.unique(log.at_ms // DAY_MS, return_counts=True)
    return pd.DataFrame({"day": days, "events": numbers})


def num_tied(log: Log) -> int:
    """Events that share their instant with another event of their query."""
    same = (log.queries.codes[1:] == log.queries.codes[:-1]) & (log.at_ms[1:] == log.at_ms[:-1])
    edge = np.zeros(1, dtype=np.bool_)
    return int((np.r_[edge, same] | np.r_[same, edge]).sum()) if len(log) else 0


def _shown_kinds(kinds: Coded) -> Coded:
    counts = np.bincount(kinds.codes, minlength=len(kinds))
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(kinds), dtype=np.int32)
    place[order] = np.minimum(np.arange(len(kinds)), KINDS_SHOWN)
    shown = [kinds.values[code] for code in order[:KINDS_SHOWN]]
    if len(kinds) == KINDS_SHOWN + 1:
        shown.append(kinds.values[order[KINDS_SHOWN]])
    elif len(kinds) > KINDS_SHOWN:
        shown.append(f"{len(kinds) - KINDS_SHOWN} {OTHER_KINDS} kinds")
    return Coded(codes=place[kinds.codes], values=tuple(shown))
