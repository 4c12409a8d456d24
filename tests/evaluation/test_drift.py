import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from evaluation.drift import NUM_SPLITS, jensen_shannon, kolmogorov_smirnov


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def halves(first: int, second: int) -> np.ndarray:
    return np.repeat([True, False], [first, second])


def test_kolmogorov_smirnov_is_the_largest_gap_of_shares() -> None:
    # at or below 2: 2 of 4 in the first sample, 0 of 2 in the second
    values = np.array([1.0, 2.0, 3.0, 4.0, 3.0, 5.0])
    assert kolmogorov_smirnov(values, in_first=halves(4, 2), generator=generator()).value == 0.5


def test_kolmogorov_smirnov_compares_after_all_equal_numbers() -> None:
    values = np.array([1.0, 1.0, 1.0, 1.0])
    assert kolmogorov_smirnov(values, in_first=halves(2, 2), generator=generator()).value == 0.0


def test_jensen_shannon_matches_hand_computation() -> None:
    # shares (1, 0) and (1/2, 1/2), middle (3/4, 1/4):
    # (1 log2(4/3) + 1/2 log2(2/3) + 1/2 log2(2)) / 2 = 0.311278, whose root is 0.557923
    drift = jensen_shannon(np.array([0, 0, 0, 1]), rows=np.arange(4), in_first=halves(2, 2), generator=generator())
    assert drift.value == pytest.approx(0.557923, abs=1e-6)


def test_samples_with_nothing_in_common_have_drift_1() -> None:
    in_first = halves(3, 3)
    values = np.array([0, 0, 1, 2, 3, 3])
    assert jensen_shannon(values, rows=np.arange(6), in_first=in_first, generator=generator()).value == 1.0
    assert kolmogorov_smirnov(values.astype(float), in_first=in_first, generator=generator()).value == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_both_measures_agree_with_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, in_first = random.integers(0, 9, 300), random.random(300) < 0.3
    ks = kolmogorov_smirnov(values.astype(float), in_first=in_first, generator=random).value
    js = jensen_shannon(values, rows=np.arange(300), in_first=in_first, generator=random).value
    shares = [np.bincount(values[side], minlength=9) / side.sum() for side in (in_first, ~in_first)]
    assert ks == pytest.approx(ks_2samp(values[in_first], values[~in_first]).statistic)
    assert js == pytest.approx(jensenshannon(*shares, base=2))


def test_chance_exceeds_its_own_reference_one_time_in_twenty() -> None:
    random = np.random.default_rng(1)
    exceeded = 0
    for _ in range(400):
        drift = kolmogorov_smirnov(
            random.normal(size=60), in_first=random.permutation(halves(30, 30)), generator=random
        )
        exceeded += drift.value > drift.random_split
    # 1 / (NUM_SPLITS + 1) of 400 is 20, and ties make it less; 8 is about 3 deviations below, 33 above
    assert NUM_SPLITS == 19
    assert 4 <= exceeded <= 33


def test_a_split_keeps_the_values_of_a_row_together() -> None:
    # Two rows, each with values of its own: however they are split, the sides have nothing in common.
    values, rows = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])
    drift = jensen_shannon(values, rows=rows, in_first=halves(1, 1), generator=generator())
    assert (drift.value, drift.random_split) == (1.0, 1.0)


@pytest.mark.parametrize("in_first", [halves(0, 3), halves(3, 0), halves(0, 0)])
def test_an_empty_sample_has_no_drift_to_speak_of(in_first: np.ndarray) -> None:
    values = np.arange(len(in_first))
    assert np.isnan(kolmogorov_smirnov(values.astype(float), in_first=in_first, generator=generator()).value)
    assert np.isnan(jensen_shannon(values, rows=values, in_first=in_first, generator=generator()).random_split)


def test_rows_of_one_side_without_values_have_no_drift_to_speak_of() -> None:
    drift = jensen_shannon(np.array([0, 1]), rows=np.array([0, 0]), in_first=halves(1, 1), generator=generator())
    assert np.isnan(drift.value)
