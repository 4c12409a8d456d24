import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import InvalidSample
from evaluation.latency import smallest_sample, summarise_ms


def test_percentiles_of_a_known_sample():
    # 0..100 ms, one each: the 50th of 101 values is 50, the 99th is 99
    assert summarise_ms(np.arange(101.0)) == {"p50": 50.0, "p99": 99.0}


def test_a_percentile_needs_one_measurement_above_it():
    assert [smallest_sample(percentile) for percentile in (50, 90, 95, 99, 99.9)] == [2, 10, 20, 100, 1000]


def test_names_follow_the_percentiles():
    assert list(summarise_ms(np.ones(1000), percentiles=(50, 95, 99.9))) == ["p50", "p95", "p99.9"]


@given(st.lists(st.floats(0, 1e6), min_size=100, max_size=200))
def test_a_higher_percentile_is_never_shorter(times):
    summary = summarise_ms(times)
    assert min(times) <= summary["p50"] <= summary["p99"] <= max(times)


def test_too_few_measurements_are_refused_with_the_number_needed():
    with pytest.raises(InvalidSample, match=r"got 99 measurements.*p99 needs at least 100"):
        summarise_ms(np.ones(99))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_impossible_times_are_refused(wrong):
    with pytest.raises(InvalidSample, match="finite and not negative"):
        summarise_ms(np.append(np.ones(100), wrong))


def test_a_percentile_outside_0_to_100_is_refused():
    with pytest.raises(InvalidSample, match="lies in"):
        summarise_ms(np.ones(10), percentiles=(100,))
