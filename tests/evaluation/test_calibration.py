import numpy as np
import pytest

from evaluation.calibration import log_loss, reliability
from evaluation.errors import InvalidSample

# Two lists of four candidates, of which the second lacks the last one. By probability: .1 .1 .2 .3 | .5 .6 .8
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.8], [0.5, 0.1, 0.3, 0.9]])
OUTCOMES = np.array([[False, True, False, False], [False, True, False, True]])
PRESENT = np.array([[True, True, True, True], [True, True, True, False]])


def measured(**settings):
    settings = {"num_bins": 2, "generator": np.random.default_rng(0), **settings}
    return reliability(PROBABILITIES, OUTCOMES, present=PRESENT, **settings)


def test_the_bins_match_hand_computation():
    own = measured()
    # 7 pairs in 2 bins: 4 and 3. Predicted .7 / 4 and 1.9 / 3, chosen 1 of 4 and 1 of 3
    assert own.num_pairs.tolist() == [4, 3]
    np.testing.assert_allclose(own.predicted, [0.7 / 4, 1.9 / 3])
    np.testing.assert_allclose(own.observed, [1 / 4, 1 / 3])


def test_the_error_matches_hand_computation():
    # 4/7 * |.7/4 - 1/4| + 3/7 * |1.9/3 - 1/3| = (.3 + .9) / 7
    own = measured()
    np.testing.assert_allclose(own.error.value, 1.2 / 7)
    assert 0.0 <= own.error.low <= own.error.value <= own.error.high


def test_what_chance_alone_gives_matches_hand_computation():
    # variances: .09 + .09 + .16 + .21 = .55 and .25 + .24 + .16 = .65
    wanted = np.sqrt(2 / np.pi) * (np.sqrt(0.55) + np.sqrt(0.65)) / 7
    np.testing.assert_allclose(measured().by_chance, wanted)


def test_log_loss_matches_hand_computation():
    # -ln of .9 .6 .8 .2 over 4, and of .5 .1 .7 over 3; the missing candidate counts nowhere
    wanted = [-np.log(0.9 * 0.6 * 0.8 * 0.2) / 4, -np.log(0.5 * 0.1 * 0.7) / 3]
    np.testing.assert_allclose(log_loss(PROBABILITIES, OUTCOMES, present=PRESENT), wanted)


@pytest.mark.parametrize("seed", range(5))
def test_a_calibrated_model_is_off_by_chance_alone_and_an_overconfident_one_by_more(seed):
    generator = np.random.default_rng(seed)
    true = generator.beta(0.5, 8.0, size=(400, 50))
    outcomes, present = generator.random(true.shape) < true, np.ones(true.shape, dtype=bool)
    honest = reliability(true, outcomes, present=present, generator=generator)
    assert honest.error.value < 2.0 * honest.by_chance < 0.01
    assert ((honest.low <= honest.predicted) & (honest.predicted <= honest.high)).sum() >= 7
    loud = reliability(np.minimum(2.0 * true, 1.0), outcomes, present=present, generator=generator)
    np.testing.assert_allclose(loud.error.value, (np.minimum(2.0 * true, 1.0) - true).mean(), atol=0.005)
    assert loud.error.low > honest.error.high


def test_what_chance_gives_is_what_calibrated_models_are_measured_at():
    generator = np.random.default_rng(3)
    true = generator.beta(0.5, 8.0, size=(100, 20))
    present = np.ones(true.shape, dtype=bool)
    drawn = [
        reliability(true, generator.random(true.shape) < true, present=present, generator=generator, num_resamples=2)
        for _ in range(200)
    ]
    np.testing.assert_allclose(np.mean([own.error.value for own in drawn]), drawn[0].by_chance, rtol=0.08)


def test_scores_are_refused():
    with pytest.raises(InvalidSample, match=r"2 of 7 probabilities are not in \[0, 1\]; give those of a calibration"):
        log_loss(np.array([[0.1, 0.6, 0.2, -0.8], [0.5, np.nan, 0.3, 9.0]]), OUTCOMES, present=PRESENT)


def test_more_bins_than_pairs_are_refused():
    with pytest.raises(InvalidSample, match="1 to 7 bins"):
        measured(num_bins=8)


def test_an_empty_list_is_refused():
    with pytest.raises(InvalidSample, match="a list has no candidate"):
        log_loss(PROBABILITIES, OUTCOMES, present=PRESENT & np.array([[True], [False]]))
