import numpy as np
import pytest

from ranking.calibration_fit import NothingToCalibrate, fit_calibration


def test_two_scores_get_the_shares_that_were_chosen_of_each():
    # 400 of 2,000 at score 0 and 1,000 of 2,000 at score 1; Platt's targets move the shares by less than a thousandth
    scores = np.repeat([0.0, 1.0], 2000)
    chosen = np.concatenate([np.arange(2000) < 400, np.arange(2000) < 1000])
    got = fit_calibration(scores, chosen=chosen).probabilities(np.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [0.2, 0.5], atol=0.001)


def test_equal_scores_get_the_share_of_platts_targets():
    # 2 of 10: targets are 3/4 and 1/10, whose mean is (2 * .75 + 8 * .1) / 10
    calibration = fit_calibration(np.full(10, 3.0), chosen=np.arange(10) < 2)
    assert calibration.slope == 0.0
    np.testing.assert_allclose(calibration.probabilities(np.array([3.0, -1.0])), [0.23, 0.23], rtol=1e-4)


def test_a_falling_share_becomes_one_level():
    scores = np.repeat([0.0, 1.0], 1000)
    chosen = np.concatenate([np.arange(1000) < 500, np.arange(1000) < 300])
    calibration = fit_calibration(scores, chosen=chosen)
    assert calibration.slope == 0.0
    np.testing.assert_allclose(calibration.probabilities(np.array([0.5])), [0.4], atol=0.001)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_it_finds_the_line_that_outcomes_were_drawn_from_wherever_scores_lie(seed, offset):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=60_000)
    true = 1.0 / (1.0 + np.exp(3.0 - 1.5 * scores))
    calibration = fit_calibration(scores + offset, chosen=generator.random(len(true)) < true)
    np.testing.assert_allclose(calibration.slope, 1.5, atol=0.06)
    np.testing.assert_allclose(calibration.probabilities(scores + offset), true, atol=0.02)


def test_scores_that_are_no_numbers_say_nothing():
    scores, chosen = np.array([0.0, 1.0, 2.0, 3.0] * 25), np.array([False, True, False, True] * 25)
    odd = np.concatenate([scores, [np.nan, np.inf, -np.inf]])
    got = fit_calibration(odd, chosen=np.concatenate([chosen, [True, False, True]]))
    assert got == fit_calibration(scores, chosen=chosen)


def test_perfectly_separated_scores_give_finite_log_odds():
    calibration = fit_calibration(np.arange(100.0), chosen=np.arange(100) >= 90)
    low, high = calibration.probabilities(np.array([0.0, 99.0]))
    assert 0.0 < low < 0.02 < 0.7 < high < 1.0


@pytest.mark.parametrize("chosen", [False, True])
def test_lists_of_which_all_or_nothing_was_chosen_are_refused(chosen):
    with pytest.raises(NothingToCalibrate, match=f"got {3 * chosen} chosen of 3; give lists of more requests"):
        fit_calibration(np.arange(3.0), chosen=np.full(3, chosen))
