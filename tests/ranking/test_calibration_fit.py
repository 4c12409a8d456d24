import numpy as np
import pytest

from ranking.calibration_fit import NothingToCalibrate, fit_calibration


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits))


def test_two_scores_get_the_shares_that_were_chosen_of_each():
    # 400 of 2,000 at score 0 and 1,000 of 2,000 at score 1; the prior holds back less than a hundredth
    scores = np.repeat([0.0, 1.0], 2000)
    chosen = np.concatenate([np.arange(2000) < 400, np.arange(2000) < 1000])
    got = fit_calibration(scores, chosen=chosen).probabilities(np.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [0.2, 0.5], atol=0.002)


def test_equal_scores_get_the_share_that_was_chosen():
    calibration = fit_calibration(np.full(10, 3.0), chosen=np.arange(10) < 2)
    np.testing.assert_allclose(calibration.probabilities(np.array([3.0, -1.0])), [0.2, 0.2], rtol=1e-6)


def test_a_falling_share_becomes_one_level():
    scores = np.repeat([0.0, 1.0], 1000)
    chosen = np.concatenate([np.arange(1000) < 500, np.arange(1000) < 300])
    got = fit_calibration(scores, chosen=chosen).probabilities(np.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [0.4, 0.4], atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_a_bent_line_that_it_was_drawn_from(seed):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=60_000)
    true = sigmoid(-3.0 + 1.5 * np.minimum(scores, 0.5) + 0.2 * scores)
    calibration = fit_calibration(scores, chosen=generator.random(len(true)) < true)
    some = np.abs(scores) < 2.0
    np.testing.assert_allclose(calibration.probabilities(scores[some]), true[some], atol=0.02)


def test_scores_that_are_no_numbers_say_nothing():
    scores, chosen = np.array([0.0, 1.0, 2.0, 3.0] * 25), np.array([False, True, False, True] * 25)
    odd = np.concatenate([scores, [np.nan, np.inf, -np.inf]])
    got = fit_calibration(odd, chosen=np.concatenate([chosen, [True, False, True]]))
    wanted = fit_calibration(scores, chosen=chosen)
    assert got.logits.tolist() == wanted.logits.tolist()


def test_perfectly_separated_scores_give_finite_log_odds():
    calibration = fit_calibration(np.arange(100.0), chosen=np.arange(100) >= 98)
    assert np.isfinite(calibration.logits).all()
    low, high = calibration.probabilities(np.array([0.0, 99.0]))
    assert low < 0.02 < 0.3 < high < 1.0


@pytest.mark.parametrize("chosen", [False, True])
def test_lists_of_which_all_or_nothing_was_chosen_are_refused(chosen):
    with pytest.raises(NothingToCalibrate, match=f"got {3 * chosen} chosen of 3; give lists of more requests"):
        fit_calibration(np.arange(3.0), chosen=np.full(3, chosen))
