import numpy as np
import pytest

from towers.retrievers.repeats import repeat_scores, repeats

OWNERS = np.array([0, 0, 0, 1])
ROWS = np.array([2, 2, 3, 4])
AGES = np.array([0.0, 30.0, 60.0, 30.0])


def test_repeats_are_counted_for_each_query() -> None:
    scores = repeat_scores(owners=OWNERS, item_rows=ROWS, age_days=AGES, num_queries=3, num_rows=5)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[0, 0, 2, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]


def test_an_event_counts_half_after_each_half_life() -> None:
    scores = repeat_scores(owners=OWNERS, item_rows=ROWS, age_days=AGES, num_queries=2, num_rows=5, half_life_days=30.0)
    # row 2: today 1 and a half-life ago 1/2; row 3: two half-lives ago 1/4; row 4: 1/2
    assert scores.tolist() == [[0, 0, 1.5, 0.25, 0], [0, 0, 0, 0, 0.5]]


def test_padding_and_unknown_items_are_no_repeats() -> None:
    scores = repeat_scores(
        owners=np.array([0, 0]), item_rows=np.array([0, 1]), age_days=np.zeros(2), num_queries=1, num_rows=3
    )
    assert not scores.any()


def test_lengths_that_differ_and_a_half_life_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long owners, rows and ages"):
        repeat_scores(owners=OWNERS, item_rows=ROWS[1:], age_days=AGES, num_queries=2, num_rows=5)
    with pytest.raises(ValueError, match="half_life_days must be above 0"):
        repeat_scores(owners=OWNERS, item_rows=ROWS, age_days=AGES, num_queries=2, num_rows=5, half_life_days=0.0)


@pytest.mark.parametrize("half_life_days", [None, 30.0])
def test_one_query_is_scored_by_the_logarithm_of_the_same_counts(half_life_days: float | None) -> None:
    rows, ages = np.array([4, 2, 0, 1, 2, 3]), np.array([1.5, 0, 0, 7, 30, 60], dtype=np.float32)
    counts = repeat_scores(
        owners=np.zeros(6, dtype=np.int64),
        item_rows=rows,
        age_days=ages,
        num_queries=1,
        num_rows=6,
        half_life_days=half_life_days,
    )
    found = repeats(rows, ages, half_life_days=half_life_days)
    assert found.rows.tolist() == [2, 3, 4]
    np.testing.assert_allclose(found.of(np.arange(6)), np.log1p(counts[0]), rtol=1e-6)


def test_a_query_without_events_repeats_nothing() -> None:
    assert not len(repeats(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), half_life_days=30.0).rows)
