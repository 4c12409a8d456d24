import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import significance
from evaluation.errors import InvalidSample
from evaluation.significance import Interval, bootstrap_interval, paired_difference


def test_the_interval_of_a_mean_agrees_with_the_normal_approximation():
    # 400 values of deviation 1: standard error 1 / sqrt(400) = 0.05, so 95 % is 1.96 * 0.05 = 0.098 to each side
    values = np.random.default_rng(0).normal(size=400)
    values = (values - values.mean()) / values.std() + 5.0
    interval = bootstrap_interval(values, generator=np.random.default_rng(1), num_resamples=4000)
    assert interval.value == pytest.approx(5.0)
    assert interval.low == pytest.approx(5 - 0.098, abs=0.01)
    assert interval.high == pytest.approx(5 + 0.098, abs=0.01)


def test_equal_values_leave_nothing_to_doubt():
    interval = bootstrap_interval(np.full(10, 0.25), generator=np.random.default_rng(0))
    assert interval == Interval(value=0.25, low=0.25, high=0.25)


def test_pairing_finds_a_small_difference_between_values_that_vary_much():
    # the second system is 0.01 worse for every query, while queries differ by 1: apart the intervals overlap
    first = np.random.default_rng(0).uniform(size=200)
    difference = paired_difference(first, first - 0.01, generator=np.random.default_rng(1))
    assert difference.value == pytest.approx(0.01)
    assert difference.excludes_zero
    alone = bootstrap_interval(first, generator=np.random.default_rng(1))
    assert alone.low < (first - 0.01).mean() < alone.high


def test_a_difference_of_nothing_includes_zero():
    generator = np.random.default_rng(0)
    interval = paired_difference(generator.normal(size=300), generator.normal(size=300), generator=generator)
    assert not interval.excludes_zero


def test_the_same_generator_state_gives_the_same_interval():
    values = np.random.default_rng(0).uniform(size=50)
    first, second = (bootstrap_interval(values, generator=np.random.default_rng(7)) for _ in range(2))
    assert first == second


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.sampled_from([0.5, 0.9, 0.95]), st.integers(0, 2**32 - 1))
def test_an_interval_stays_within_the_values_and_widens_with_its_level(values, level, seed):
    own = np.array(values)
    narrow = bootstrap_interval(own, generator=np.random.default_rng(seed), num_resamples=200, level=level)
    wide = bootstrap_interval(own, generator=np.random.default_rng(seed), num_resamples=200, level=0.99)
    assert own.min() - 1e-12 <= wide.low <= narrow.low <= narrow.high <= wide.high <= own.max() + 1e-12


def test_what_is_held_at_once_does_not_grow_with_the_number_of_resamples():
    # 600,000 values allow one resample at a time; two must still be drawn from different queries
    num_queries = significance.DRAWS_AT_ONCE * 3 // 5
    values = np.random.default_rng(0).uniform(size=num_queries)
    interval = bootstrap_interval(values, generator=np.random.default_rng(0), num_resamples=3)
    assert interval.low < interval.high
    assert interval.value == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        (np.array([1.0]), 0.95, "Q >= 2"),
        (np.ones((3, 2)), 0.95, "one value per query"),
        (np.array([1.0, np.nan]), 0.95, "1 of 2 values are not finite"),
        (np.array([1.0, 2.0]), 95.0, "level must lie in"),
    ],
)
def test_a_sample_without_an_interval_is_refused(values, level, message):
    with pytest.raises(InvalidSample, match=message):
        bootstrap_interval(values, generator=np.random.default_rng(0), level=level)


def test_pairs_of_different_queries_are_refused():
    with pytest.raises(InvalidSample, match="same queries in the same order"):
        paired_difference(np.ones(3), np.ones(4), generator=np.random.default_rng(0))
