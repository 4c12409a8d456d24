import math
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.context import CONTEXT, HOUR_MS, MAX_IDLE_DAYS, MINUTE_MS, context_inputs
from features.spec import DAY_MS

NOW_MS = 20_000 * DAY_MS  # midnight
GAP_MINUTES = 30


class Event(NamedTuple):
    before_ms: int  # before the request
    item_row: int = 2
    value: float = 1.0


class Query(NamedTuple):
    events: list[Event]  # oldest first
    requested_at_ms: int = NOW_MS


def context_of(*queries: Query) -> NDArray[np.float32]:
    flat = [(query.requested_at_ms - event.before_ms, event) for query in queries for event in query.events]
    return context_inputs(
        requested_at_ms=np.array([query.requested_at_ms for query in queries], dtype=np.int64),
        lengths=np.array([len(query.events) for query in queries], dtype=np.int64),
        item_rows=np.array([event.item_row for _, event in flat], dtype=np.int64),
        values=np.array([event.value for _, event in flat], dtype=np.float32),
        at_ms=np.array([at_ms for at_ms, _ in flat], dtype=np.int64),
        session_gap_minutes=GAP_MINUTES,
    )


def one(name: str, events: list[Event], *, requested_at_ms: int = NOW_MS) -> float:
    """One number of one query."""
    (row,) = context_of(Query(events, requested_at_ms))
    return float(row[list(CONTEXT).index(name)])


def counted(name: str, events: list[Event], *, requested_at_ms: int = NOW_MS) -> float:
    """The same, of a count or of days, which come as ln(1 + x)."""
    return math.expm1(one(name, events, requested_at_ms=requested_at_ms))


def days_ago(*days: float) -> list[Event]:
    return [Event(round(before * DAY_MS)) for before in days]


def minutes_ago(*minutes: float) -> list[Event]:
    return [Event(round(before * MINUTE_MS)) for before in minutes]


def test_counts_and_days_come_by_logarithm():
    assert one("history_count", days_ago(3, 2, 1)) == np.float32(math.log(4))
    assert one("history_days", days_ago(3, 2, 1)) == np.float32(math.log(4))
    assert one("idle_days", days_ago(3, 2, 1)) == np.float32(math.log(2))


def test_means_and_shares_come_as_they_are():
    events = [Event(3, item_row=5, value=1.0), Event(2, item_row=7, value=2.0), Event(1, item_row=5, value=4.5)]
    assert one("value_mean", events) == 2.5  # (1 + 2 + 4.5) / 3
    assert one("distinct_share", events) == np.float32(2 / 3)


def test_windows_reach_back_their_days_and_no_millisecond_further():
    events = [Event(30 * DAY_MS + 1), Event(30 * DAY_MS), Event(7 * DAY_MS + 1), *days_ago(7, 1, 0.5, 0)]
    assert counted("count_1d", events) == pytest.approx(3)
    assert counted("count_7d", events) == pytest.approx(4)
    assert counted("count_30d", events) == pytest.approx(6)
    assert counted("history_count", events) == pytest.approx(7)


def test_a_gap_is_the_mean_time_between_successive_events():
    # 9 to 3 days ago in 3 steps
    assert counted("gap_days", days_ago(9, 8.5, 4, 3)) == pytest.approx(2)


@pytest.mark.parametrize("events", [[], days_ago(3), days_ago(9000, 8000)])
def test_a_gap_that_is_not_known_or_longer_than_a_year_is_a_year(events):
    assert counted("gap_days", events) == pytest.approx(MAX_IDLE_DAYS)


def test_a_pause_longer_than_the_gap_begins_a_session():
    # pauses of 30 (not longer), 31 and 10 minutes: two sessions, the newer of two events
    events = minutes_ago(100, 70, 39, 29)
    assert counted("sessions", events) == pytest.approx(2)
    assert counted("session_events", events) == pytest.approx(2)


def test_a_session_is_open_for_as_long_as_a_pause_may_last():
    assert counted("session_events", minutes_ago(50, 40, 30)) == pytest.approx(3)
    assert counted("session_events", [*minutes_ago(50, 40), Event(30 * MINUTE_MS + 1)]) == 0
    assert counted("sessions", [*minutes_ago(50, 40), Event(30 * MINUTE_MS + 1)]) == pytest.approx(1)


def test_events_of_one_instant_are_one_session_without_a_gap():
    events = minutes_ago(5, 5, 5)
    assert counted("sessions", events) == pytest.approx(1)
    assert counted("session_events", events) == pytest.approx(3)
    assert counted("gap_days", events) == 0


def test_a_query_without_history_has_nothing_behind_it_and_has_been_idle_for_a_year():
    for name in ("history_count", "history_days", "value_mean", "distinct_share", "count_30d", "sessions"):
        assert one(name, []) == 0
    assert one("session_events", []) == 0
    assert counted("idle_days", []) == pytest.approx(MAX_IDLE_DAYS)


def test_days_longer_ago_than_a_year_count_as_a_year():
    assert counted("history_days", days_ago(9000, 8000)) == pytest.approx(MAX_IDLE_DAYS)
    assert counted("idle_days", days_ago(9000, 8000)) == pytest.approx(MAX_IDLE_DAYS)


def test_an_event_after_the_request_by_a_wrong_clock_happened_just_now():
    events = [Event(DAY_MS), Event(-5)]
    assert one("idle_days", events) == 0
    assert counted("count_1d", events) == pytest.approx(2)
    assert counted("session_events", events) == pytest.approx(1)


def test_a_history_out_of_order_gives_numbers_all_the_same():
    # Who sends a history is trusted with its order, but not with the server's arithmetic.
    assert np.isfinite(context_of(Query(days_ago(1, 300)))).all()
    assert one("gap_days", days_ago(1, 300)) == 0


@pytest.mark.parametrize(
    ("at", "hour", "weekday"),
    [
        (datetime(1970, 1, 1, 0, 0, tzinfo=UTC), 0, 3),  # a Thursday
        (datetime(2024, 7, 1, 5, 59, 59, 999_000, tzinfo=UTC), 5, 0),  # a Monday
        (datetime(2024, 7, 7, 23, 0, tzinfo=UTC), 23, 6),  # a Sunday
    ],
)
def test_hour_and_weekday_are_places_on_circles_in_utc(at, hour, weekday):
    assert (at.hour, at.weekday()) == (hour, weekday)
    at_ms = round(at.timestamp() * 1000)
    for name, place, size in (("hour", hour, 24), ("weekday", weekday, 7)):
        angle = 2 * math.pi * place / size
        assert one(f"{name}_sin", [], requested_at_ms=at_ms) == np.float32(math.sin(angle))
        assert one(f"{name}_cos", [], requested_at_ms=at_ms) == np.float32(math.cos(angle))


@pytest.mark.parametrize("step_ms", [HOUR_MS, DAY_MS])
def test_the_last_place_of_a_circle_is_next_to_the_first(step_ms):
    name, size = ("hour", 24) if step_ms == HOUR_MS else ("weekday", 7)
    points = [
        [one(f"{name}_{part}", [], requested_at_ms=place * step_ms) for part in ("sin", "cos")]
        for place in range(size + 1)
    ]
    np.testing.assert_array_equal(points[0], points[size])
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 2 * math.sin(math.pi / size), rtol=1e-5)


def test_only_what_the_instant_of_the_request_says_comes_from_the_request():
    assert [name for name, origin in CONTEXT.items() if origin == "request"] == [
        "hour_sin",
        "hour_cos",
        "weekday_sin",
        "weekday_cos",
    ]


events = st.builds(
    Event,
    before_ms=st.one_of(st.integers(0, 100 * MINUTE_MS), st.integers(0, 500 * DAY_MS)),
    item_row=st.integers(0, 4),
    value=st.floats(-5, 5, width=32),
)
histories = st.lists(events, max_size=12).map(lambda rows: sorted(rows, key=lambda event: -event.before_ms))
queries = st.builds(Query, events=histories, requested_at_ms=st.integers(600 * DAY_MS, NOW_MS))


@settings(deadline=None, max_examples=60)
@given(st.lists(queries, min_size=1, max_size=5))
def test_a_batch_equals_its_queries_one_at_a_time(batch):
    together = context_of(*batch)
    for place, query in enumerate(batch):
        np.testing.assert_array_equal(together[place], context_of(query)[0])


@given(queries)
def test_every_number_is_finite_and_of_single_precision(query):
    found = context_of(query)
    assert found.shape == (1, len(CONTEXT))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


@given(queries, st.integers(0, 10 * DAY_MS))
def test_a_later_request_finds_the_same_history_older(query, delay_ms):
    later = Query([event._replace(before_ms=event.before_ms + delay_ms) for event in query.events])
    before, after = context_of(query)[0], context_of(later)[0]
    for name in ("history_count", "value_mean", "distinct_share", "gap_days", "sessions"):
        assert before[list(CONTEXT).index(name)] == after[list(CONTEXT).index(name)]
    for name in ("history_days", "idle_days"):
        assert before[list(CONTEXT).index(name)] <= after[list(CONTEXT).index(name)]
    for name in ("count_1d", "count_7d", "count_30d", "session_events"):
        assert before[list(CONTEXT).index(name)] >= after[list(CONTEXT).index(name)]


def test_no_queries_give_no_rows():
    assert context_of().shape == (0, len(CONTEXT))
