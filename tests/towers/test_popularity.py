import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.statistics import STATISTICS
from towers.retrievers.popularity import Popular, recent_counts, recent_scores

# Query 1 has item 2 on days 10 and 12, queries 1 and 5 have item 3 on day 11, query 5 has item 4 twice on day 12.
QUERIES = np.array([1, 1, 5, 1, 5, 5])
ITEM_ROWS = np.array([2, 3, 3, 2, 4, 4])
DAYS = np.array([10, 11, 11, 12, 12, 12])


def counts_at(tick_day: int, window_days: int | None) -> list[int]:
    counts = recent_counts(
        query_rows=QUERIES,
        item_rows=ITEM_ROWS,
        days=DAYS,
        tick_day=tick_day,
        window_days=window_days,
        num_rows=6,
    )
    return counts.tolist()


def test_the_day_of_the_tick_does_not_count():
    assert counts_at(12, None) == [0, 0, 1, 2, 0, 0]


def test_a_query_that_has_an_item_again_is_one_query():
    assert counts_at(13, None) == [0, 0, 1, 2, 1, 0]


def test_a_window_begins_its_days_before_the_tick():
    # a tick at the start of day 13 with 2 days looks at days 11 and 12
    assert counts_at(13, 2) == [0, 0, 1, 2, 1, 0]
    assert counts_at(13, 1) == [0, 0, 1, 0, 1, 0]
    assert counts_at(12, 1) == [0, 0, 0, 2, 0, 0]


def test_every_query_sees_the_counts_of_its_own_tick():
    scores = recent_scores(
        query_rows=QUERIES,
        item_rows=ITEM_ROWS,
        days=DAYS,
        tick_days=np.array([13, 11, 13]),
        window_days=2,
        num_rows=6,
    )
    np.testing.assert_array_equal(scores, [counts_at(13, 2), counts_at(11, 2), counts_at(13, 2)])


@given(st.integers(5, 20), st.integers(1, 10), st.integers(0, 100))
def test_events_on_or_after_the_tick_change_nothing(tick_day, window_days, later):
    with_later = recent_counts(
        query_rows=np.append(QUERIES, 9),
        item_rows=np.append(ITEM_ROWS, 5),
        days=np.append(DAYS, tick_day + later),
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
        recent_counts(query_rows=QUERIES, item_rows=ITEM_ROWS, days=DAYS, tick_day=13, num_rows=4)


def test_popular_is_the_last_week_and_a_day_of_the_last_month() -> None:
    statistics = np.zeros((7, len(STATISTICS)), dtype=np.float32)
    statistics[:, STATISTICS.index("count_all")] = 99.0
    statistics[:, STATISTICS.index("count_7d")] = [9, 9, 3, 0, 4, 0, 3]
    statistics[:, STATISTICS.index("count_30d")] = [9, 9, 30, 15, 4, 0, 60]
    popular = Popular.as_of(statistics)
    # 3 + 1, 0.5, 4 + 4 / 30, nothing, 3 + 2; padding and the unknown item never score
    scores = np.log1p([0, 0, 4, 0.5, 4 + 4 / 30, 0, 5])
    np.testing.assert_allclose(popular.of(np.arange(7)), scores, rtol=1e-6)
    assert popular.best(k=9, allowed=np.ones(7, dtype=np.bool_)).tolist() == [6, 4, 2, 3]
    assert popular.best(k=2, allowed=np.arange(7) != 6).tolist() == [4, 2]


@given(counts=st.lists(st.integers(0, 3), min_size=2, max_size=40), k=st.integers(0, 12), seed=st.integers(0, 99))
def test_the_most_popular_allowed_items_are_found_however_few_are_allowed(counts: list[int], k: int, seed: int) -> None:
    statistics = np.zeros((len(counts), len(STATISTICS)), dtype=np.float32)
    statistics[:, STATISTICS.index("count_7d")] = counts
    allowed = np.random.default_rng(seed).random(len(counts)) < 0.3
    expected = sorted((row for row in range(2, len(counts)) if counts[row] and allowed[row]), key=lambda r: -counts[r])
    assert Popular.as_of(statistics).best(k=k, allowed=allowed).tolist() == expected[:k]
