"""Numbers that say in which situation a query asks: derived from its history and the instant of the request.

Owns the columns of CONTEXT. Histories come flat: the events of all queries one after the other, oldest first within a
query. Nothing here looks at an event that the history does not hold, so whoever cut the history at the request has cut
these numbers there too.

Shapes: N queries, T events of all their histories.
"""

import math

import numpy as np
from numpy.typing import NDArray

from features.spec import DAY_MS, Origin

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
# An idle time longer than a year, and that of a query which never did anything, is a year.
MAX_IDLE_DAYS = 365.0
COUNT_WINDOWS_DAYS = (1, 7, 30)
# 1970-01-01 was a Thursday, the fourth day of a week that begins on Monday.
EPOCH_WEEKDAY = 3


def _circle(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # By math, for numpy's sine may differ in its last bit from one version to the next.
    angles = [2 * math.pi * place / size for place in range(size)]
    return np.array([math.sin(angle) for angle in angles]), np.array([math.cos(angle) for angle in angles])


HOURS, WEEKDAYS = _circle(24), _circle(7)

CONTEXT: dict[str, Origin] = {
    "history_count": "history",  # events, ln(1 + n), as all counts and days here
    "history_days": "history",  # since the first event
    "value_mean": "history",
    "distinct_share": "history",  # distinct items to events
    "idle_days": "history",  # since the last event
    **{f"count_{days}d": "history" for days in COUNT_WINDOWS_DAYS},
    "gap_days": "history",  # between successive events, on average
    "sessions": "history",
    "session_events": "history",  # of the session that is open at the request; 0 where none is
    "hour_sin": "request",  # of the day, UTC
    "hour_cos": "request",
    "weekday_sin": "request",
    "weekday_cos": "request",
}


def context_inputs(
    *,
    requested_at_ms: NDArray[np.int64],
    lengths: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    values: NDArray[np.float32],
    at_ms: NDArray[np.int64],
    session_gap_minutes: int,
) -> NDArray[np.float32]:
    """[N, len(CONTEXT)] of N queries.

    Args:
        requested_at_ms: [N].
        lengths: [N] events of each query's history.
        item_rows: [T] ItemRow, like values and at_ms.
        values: [T].
        at_ms: [T].
        session_gap_minutes: a longer pause begins a new session.
    """
    num = len(lengths)
    owner = np.repeat(np.arange(num), lengths)
    stops = np.cumsum(lengths)
    some = lengths > 0
    first_at_ms, last_at_ms = requested_at_ms.copy(), requested_at_ms.copy()
    first_at_ms[some] = at_ms[(stops - lengths)[some]]
    last_at_ms[some] = at_ms[stops[some] - 1]
    age_days = np.maximum(requested_at_ms[owner] - at_ms, 0) / DAY_MS
    # bincount adds the events of a query in their order, whatever else is in the batch: one row alone gives the same.
    value_sums = np.bincount(owner, weights=values.astype(np.float64), minlength=num)
    gap_days = np.where(lengths > 1, (last_at_ms - first_at_ms) / DAY_MS / np.maximum(lengths - 1, 1), MAX_IDLE_DAYS)
    sessions, session_events = _sessions(
        requested_at_ms, lengths=lengths, owner=owner, at_ms=at_ms, gap_ms=session_gap_minutes * MINUTE_MS
    )
    idle_days = np.where(some, _days(requested_at_ms - last_at_ms), MAX_IDLE_DAYS)
    hour, weekday = (requested_at_ms // HOUR_MS) % 24, (requested_at_ms // DAY_MS + EPOCH_WEEKDAY) % 7
    columns = {
        "history_count": np.log1p(lengths),
        "history_days": np.log1p(_days(requested_at_ms - first_at_ms)),
        "value_mean": value_sums / np.maximum(lengths, 1),
        "distinct_share": _num_distinct(owner, item_rows, num=num) / np.maximum(lengths, 1),
        "idle_days": np.log1p(idle_days),
        **{
            f"count_{days}d": np.log1p(np.bincount(owner[age_days <= days], minlength=num))
            for days in COUNT_WINDOWS_DAYS
        },
        "gap_days": np.log1p(np.clip(gap_days, 0.0, MAX_IDLE_DAYS)),
        "sessions": np.log1p(sessions),
        "session_events": np.log1p(session_events),
        "hour_sin": HOURS[0][hour],
        "hour_cos": HOURS[1][hour],
        "weekday_sin": WEEKDAYS[0][weekday],
        "weekday_cos": WEEKDAYS[1][weekday],
    }
    return np.stack([columns[name] for name in CONTEXT], axis=1).astype(np.float32)


def _days(duration_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.clip(duration_ms / DAY_MS, 0.0, MAX_IDLE_DAYS)


def _num_distinct(owner: NDArray[np.int64], item_rows: NDArray[np.int64], *, num: int) -> NDArray[np.int64]:
    width = int(item_rows.max(initial=0)) + 1
    return np.bincount(np.unique(owner * width + item_rows) // width, minlength=num)


def _sessions(
    requested_at_ms: NDArray[np.int64],
    *,
    lengths: NDArray[np.int64],
    owner: NDArray[np.int64],
    at_ms: NDArray[np.int64],
    gap_ms: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[N] sessions of each query, and [N] events of the one that is open at the request."""
    num, stops = len(lengths), np.cumsum(lengths)
    place = np.arange(len(owner))
    begins = np.ones(len(owner), dtype=np.bool_)
    begins[1:] = (owner[1:] != owner[:-1]) | (at_ms[1:] - at_ms[:-1] > gap_ms)
    last_begin = np.zeros(num, dtype=np.int64)
    last_begin[owner[begins]] = place[begins]  # of several the last stays
    is_open = lengths > 0
    is_open[is_open] = requested_at_ms[is_open] - at_ms[stops[is_open] - 1] <= gap_ms
    return np.bincount(owner[begins], minlength=num), np.where(is_open, stops - last_begin, 0)
