import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from towers.negatives import FrequencySampler, Negatives

# padding, unknown, an item never chosen, then items of 16, 4 and 1 events
COUNTS = np.array([0.0, 0.0, 0.0, 16.0, 4.0, 1.0])


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (0.0, [1 / 3, 1 / 3, 1 / 3]),
        (0.5, [4 / 7, 2 / 7, 1 / 7]),  # square roots 4, 2, 1
        (1.0, [16 / 21, 4 / 21, 1 / 21]),
    ],
)
def test_the_exponent_leads_from_uniform_to_frequency(exponent, expected):
    probabilities = FrequencySampler(num_negatives=1, exponent=exponent).probabilities(COUNTS)
    np.testing.assert_allclose(probabilities, [0, 0, 0, *expected])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any), st.floats(0, 1))
def test_probabilities_add_up_and_only_items_seen_in_training_have_one(counts, exponent):
    probabilities = FrequencySampler(num_negatives=1, exponent=exponent).probabilities(np.array(counts, dtype=float))
    assert probabilities.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(probabilities > 0, np.array(counts) > 0)


def sample(*, num_negatives: int, seed: int = 0) -> Negatives:
    """By square roots: items 3, 4 and 5 have probabilities 4/7, 2/7 and 1/7."""
    sampler = FrequencySampler(num_negatives=num_negatives, exponent=0.5)
    probabilities = torch.from_numpy(sampler.probabilities(COUNTS)).float()
    return sampler.sample(probabilities, generator=torch.Generator().manual_seed(seed))


def test_rows_are_drawn_as_often_as_their_probability_says_and_unseen_ones_never():
    counts = torch.bincount(sample(num_negatives=70_000).rows, minlength=6)
    assert counts[:3].tolist() == [0, 0, 0]
    # 40,000, 20,000 and 10,000 expected; deviation sqrt(n p (1 - p)) is at most 132
    np.testing.assert_allclose(counts[3:], [40_000, 20_000, 10_000], atol=4 * 132)


def test_the_expected_count_is_the_number_of_draws_times_the_probability():
    negatives = sample(num_negatives=7)
    # 7 draws of probabilities 4/7, 2/7, 1/7: 4, 2 and 1 times
    expected = {3: math.log(4), 4: math.log(2), 5: math.log(1)}
    np.testing.assert_allclose(
        negatives.log_expected_count, [expected[row] for row in negatives.rows.tolist()], atol=1e-6
    )


def test_over_many_samples_an_item_comes_as_often_as_expected():
    counts = torch.stack([torch.bincount(sample(num_negatives=7, seed=seed).rows, minlength=6) for seed in range(2000)])
    # deviation of a mean count: sqrt(7 p (1 - p) / 2000) is at most 0.03
    np.testing.assert_allclose(counts.float().mean(dim=0), [0, 0, 0, 4, 2, 1], atol=0.12)


def test_the_same_generator_draws_the_same_sample():
    first, again, other = (sample(num_negatives=50, seed=seed).rows.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("num_negatives", "exponent"), [(0, 0.5), (1, -0.1), (1, 1.1)])
def test_settings_outside_their_range_are_refused_with_their_values(num_negatives, exponent):
    with pytest.raises(
        ValueError, match=rf"num_negatives >= 1 and 0 <= exponent <= 1; got {num_negatives} and {exponent}"
    ):
        FrequencySampler(num_negatives=num_negatives, exponent=exponent)


def test_a_catalogue_without_a_training_event_is_refused():
    with pytest.raises(ValueError, match="no item has a training event, so nothing can be sampled: check the split"):
        FrequencySampler(num_negatives=1, exponent=0.5).probabilities(np.zeros(5))
