import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.popularity import popularity_scores, recent_counts, recent_scores

# item 2 on days 10 and 12, item 3 on day 11 (5 events), item 4 on day 12
ITEM_ROWS = np.array([2, 3, 2, 4])
DAYS = np.array([10, 11, 12, 12])
NUM_EVENTS = np.array([1, 5, 2, 3])


def counts_at(tick_day: int, window_days: int | None) -> list[int]:
    counts = recent_counts(
        item_rows=ITEM_ROWS,
        days=DAYS,
        num_events=NUM_EVENTS,
        tick_day=tick_day,
        window_days=window_days,
        num_rows=6,
    )
    return counts.tolist()


def test_scores_are_the_counts_for_every_query():
    scores = popularity_scores(np.array([0, 0, 7, 3]), num_queries=2)
    np.testing.assert_array_equal(scores, [[0, 0, 7, 3], [0, 0, 7, 3]])


def test_the_day_of_the_tick_does_not_count():
    assert counts_at(12, None) == [0, 0, 1, 5, 0, 0]
    assert counts_at(13, None) == [0, 0, 3, 5, 3, 0]


def test_a_window_begins_its_days_before_the_tick():
    # a tick at the start of day 13 with 2 days looks at days 11 and 12
    assert counts_at(13, 2) == [0, 0, 2, 5, 3, 0]
    assert counts_at(13, 1) == [0, 0, 2, 0, 3, 0]


def test_every_query_sees_the_counts_of_its_own_tick():
    scores = recent_scores(
        item_rows=ITEM_ROWS,
        days=DAYS,
        num_events=NUM_EVENTS,
        tick_days=np.array([13, 11, 13]),
        window_days=2,
        num_rows=6,
    )
    np.testing.assert_array_equal(scores, [counts_at(13, 2), counts_at(11, 2), counts_at(13, 2)])


@given(st.integers(5, 20), st.integers(1, 10), st.integers(0, 100))
def test_events_on_or_after_the_tick_change_nothing(tick_day, window_days, later):
    with_later = recent_counts(
        item_rows=np.append(ITEM_ROWS, 5),
        days=np.append(DAYS, tick_day + later),
        num_events=np.append(NUM_EVENTS, 1000),
        tick_day=tick_day,
        window_days=window_days,
        num_rows=6,
    )
    assert with_later.tolist() == counts_at(tick_day, window_days)


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="window_days must be at least 1, or None"):
        counts_at(13, 0)


def test_rows_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match=r"rows below 4.*highest row 4"):
        recent_counts(item_rows=ITEM_ROWS, days=DAYS, num_events=NUM_EVENTS, tick_day=13, num_rows=4)
