import math
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.spec import DAY_MS
from features.statistics import NEVER_DAYS, STATISTICS, ItemDays, ItemStatistics

NUM_ROWS = 6


class Event(NamedTuple):
    row: int
    day: int
    value: float = 1.0
    is_positive: bool = True


def item_days(events: list[Event], *, available: dict[int, float] | None = None) -> ItemDays:
    """One row an item and day, as prepare_data writes them; `available` names a row's first day."""
    keys = sorted({(event.row, event.day) for event in events})
    of_key = [[event for event in events if (event.row, event.day) == key] for key in keys]
    return ItemDays(
        rows=np.array([row for row, _ in keys], dtype=np.int64),
        days=np.array([day for _, day in keys], dtype=np.int64),
        counts=np.array([len(own) for own in of_key], dtype=np.float64),
        positives=np.array([sum(event.is_positive for event in own) for own in of_key], dtype=np.float64),
        value_sums=np.array([sum(event.value for event in own) for own in of_key], dtype=np.float64),
        available_days=np.array([(available or {}).get(row, np.nan) for row in range(NUM_ROWS)]),
    )


def slow_statistics(events: list[Event], *, day: int) -> list[list[float]]:
    """Statistics of every row as of `day`, an item at a time."""
    past = [event for event in events if event.day < day]
    prior = sum(event.value for event in past) / len(past) if past else 0.0
    table = []
    for row in range(NUM_ROWS):
        own = [event for event in past if event.row == row]
        days = [event.day for event in own]
        positive_days = [event.day for event in own if event.is_positive]
        table.append(
            [
                float(len(positive_days)),
                *(float(sum(event_day >= day - window for event_day in positive_days)) for window in (1, 7, 30)),
                (sum(event.value for event in own) + 5 * prior) / (len(own) + 5),
                min(float(day - max(days)), NEVER_DAYS) if days else NEVER_DAYS,
                min(float(day - min(days)), NEVER_DAYS) if days else NEVER_DAYS,
            ]
        )
    return table


def column(table: np.ndarray, name: str) -> list[float]:
    return table[:, STATISTICS.index(name)].tolist()


def test_an_items_statistics_match_hand_computation():
    # item 2: on day 60 rated 5 and 3, on day 95 rated 4; item 3: on day 99 rated 1
    events = [Event(2, 60, 5), Event(2, 60, 3), Event(2, 95, 4), Event(3, 99, 1)]
    table = item_days(events).as_of(100)
    assert column(table, "count_all") == [0, 0, 3, 1, 0, 0]
    assert column(table, "count_1d") == [0, 0, 0, 1, 0, 0]  # day 99
    assert column(table, "count_7d") == [0, 0, 1, 1, 0, 0]  # days 93 to 99
    assert column(table, "count_30d") == [0, 0, 1, 1, 0, 0]  # days 70 to 99
    # All events have mean 13 / 4 = 3.25: item 2 has (12 + 5 * 3.25) / 8, item 3 (1 + 5 * 3.25) / 6
    np.testing.assert_allclose(column(table, "value_mean")[2:4], [28.25 / 8, 17.25 / 6], rtol=1e-6)
    assert column(table, "idle_days") == [365, 365, 5, 1, 365, 365]
    assert column(table, "age_days") == [365, 365, 40, 1, 365, 365]


def test_what_was_refused_is_known_and_is_no_popularity():
    # item 2: taken on day 60, refused on days 60 and 99 with values 1 and 2; the mean of all is (4 + 1 + 2) / 3
    events = [Event(2, 60, 4), Event(2, 60, 1, is_positive=False), Event(2, 99, 2, is_positive=False)]
    table = item_days(events).as_of(100)
    assert column(table, "count_all")[2] == 1
    assert column(table, "count_1d")[2] == column(table, "count_7d")[2] == 0
    np.testing.assert_allclose(column(table, "value_mean")[2], 7 / 3, rtol=1e-6)
    assert (column(table, "idle_days")[2], column(table, "age_days")[2]) == (1, 40)


def test_an_items_age_is_that_of_its_offer_where_somebody_says():
    events = [Event(2, 60), Event(3, 60), Event(4, 60)]
    available = {2: 30.0, 3: 99.0, 5: 90.0}
    table = item_days(events, available=available).as_of(100)
    # 2 was offered before its first event, 3 (they say) after it; nobody says for 4; 5 was never chosen
    assert column(table, "age_days") == [365, 365, 70, 1, 40, 10]
    assert column(table, "idle_days") == [365, 365, 40, 40, 40, 365]


def test_what_is_offered_from_a_later_day_has_no_age_yet():
    assert column(item_days([], available={2: 100.0, 3: 5000.0}).as_of(100), "age_days")[2:4] == [0, 0]


def test_a_window_begins_its_days_before_the_day_asked_for():
    days = item_days([Event(2, 92), Event(3, 93), Event(4, 69), Event(5, 70), Event(0, 98), Event(1, 99)])
    assert column(days.as_of(100), "count_1d") == [0, 1, 0, 0, 0, 0]
    assert column(days.as_of(100), "count_7d") == [1, 1, 0, 1, 0, 0]
    assert column(days.as_of(100), "count_30d") == [1, 1, 1, 1, 0, 1]


def test_the_day_asked_for_does_not_count():
    days = item_days([Event(2, 100, 5)])
    np.testing.assert_array_equal(days.as_of(100), item_days([]).as_of(100))
    assert column(days.as_of(101), "count_all")[2] == 1


def test_days_longer_ago_than_a_year_count_as_a_year():
    assert column(item_days([Event(2, 0)]).as_of(10_000), "age_days")[2] == NEVER_DAYS


events_of_items = st.lists(
    st.builds(Event, st.integers(0, NUM_ROWS - 1), st.integers(0, 450), st.integers(0, 5), st.booleans()), max_size=30
)


@given(events_of_items, st.integers(0, 460))
def test_statistics_equal_a_slow_recomputation_from_the_events_exactly(events, day):
    slow = np.array(slow_statistics(events, day=day)).astype(np.float32)
    np.testing.assert_array_equal(item_days(events).as_of(day), slow)


@given(events_of_items, st.integers(0, 460), st.lists(st.integers(0, 500), min_size=30, max_size=30))
def test_moving_what_happens_later_changes_nothing(events, day, delays):
    moved = [
        event if event.day < day else event._replace(day=day + delay, is_positive=not event.is_positive)
        for event, delay in zip(events, delays, strict=False)
    ]
    np.testing.assert_array_equal(item_days(moved).as_of(day), item_days(events).as_of(day))


@given(events_of_items, st.integers(0, 460), st.integers(1, 29))
def test_rows_of_several_splits_add_up_to_those_of_their_union(events, day, cut):
    parts = [item_days(events[:cut]), item_days(events[cut:])]
    both = ItemDays(
        rows=np.concatenate([part.rows for part in parts]),
        days=np.concatenate([part.days for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        positives=np.concatenate([part.positives for part in parts]),
        value_sums=np.concatenate([part.value_sums for part in parts]),
        available_days=parts[0].available_days,
    )
    np.testing.assert_array_equal(both.as_of(day), item_days(events).as_of(day))


def test_a_request_knows_the_last_finished_tick_and_nothing_of_its_own_day():
    events = [Event(2, 10), Event(2, 11), Event(2, 12)]
    requests = np.array([11 * DAY_MS, 12 * DAY_MS - 1, 12 * DAY_MS, 12 * DAY_MS + 1])
    statistics = ItemStatistics.at_requests(item_days(events), requested_at_ms=requests, tick_ms=DAY_MS)
    assert statistics.ticks_at_ms.tolist() == [11 * DAY_MS, 12 * DAY_MS]
    counts = statistics.values[statistics.ticks(requests), 2, STATISTICS.index("count_all")]
    # through day 11 only day 10 is known; from the first millisecond of day 12 day 11 is known too
    assert counts.tolist() == [1, 1, 2, 2]


@given(events_of_items, st.lists(st.integers(0, 460 * DAY_MS), min_size=1, max_size=5), st.integers(1, 3))
def test_every_request_gets_the_statistics_of_its_own_tick(events, requests, tick_days):
    days, at_ms = item_days(events), np.array(requests)
    statistics = ItemStatistics.at_requests(days, requested_at_ms=at_ms, tick_ms=tick_days * DAY_MS)
    for place, request in zip(statistics.ticks(at_ms), requests, strict=True):
        tick_day = math.floor(request / (tick_days * DAY_MS)) * tick_days
        np.testing.assert_array_equal(statistics.values[place], days.as_of(tick_day))


def test_a_request_before_the_first_tick_gets_the_first():
    statistics = ItemStatistics(ticks_at_ms=np.array([5, 9]), values=np.zeros((2, 3, len(STATISTICS)), np.float32))
    assert statistics.ticks(np.array([0, 4, 5, 8, 9, 100])).tolist() == [0, 0, 0, 0, 1, 1]


def test_no_requests_need_no_ticks():
    statistics = ItemStatistics.at_requests(item_days([]), requested_at_ms=np.zeros(0, np.int64), tick_ms=DAY_MS)
    assert statistics.values.shape == (0, NUM_ROWS, len(STATISTICS))
