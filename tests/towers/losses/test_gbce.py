import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.testing import assert_close

from towers.errors import UnfitPieces
from towers.losses.gbce import Gbce, gbce

# Sigmoids of 1/2, 3/4 and 1/4.
EVEN, HIGH, LOW = 0.0, math.log(3), -math.log(3)


def loss_of(
    positive: float,
    negatives: list[float],
    *,
    num_items: int,
    calibration: float,
    expected_counts: list[float] | None = None,
    left_out: list[bool] | None = None,
) -> float:
    """Loss of one position; drawn evenly unless counts are given."""
    num_negatives = len(negatives)
    counts = expected_counts or [num_negatives / (num_items - 1)] * num_negatives
    return gbce(
        torch.tensor([positive]),
        torch.tensor([negatives]),
        log_expected_count=torch.tensor(counts).log(),
        left_out=torch.tensor([left_out or [False] * num_negatives]),
        num_items=num_items,
        calibration=calibration,
    ).item()


@pytest.mark.parametrize(
    ("calibration", "power"),
    [
        (0.0, 1.0),  # plain binary cross entropy
        (1.0, 0.2),  # alpha: 2 of 10 other items
        (0.5, 0.6),  # alpha (t (1 - 1 / alpha) + 1 / alpha) = 0.2 (0.5 (1 - 5) + 5)
    ],
)
def test_the_target_counts_to_the_power_beta(calibration, power):
    # -(power log(3/4) + log(1 - 1/2) + log(1 - 1/4)) / 3
    expected = -(power * math.log(0.75) + math.log(0.5) + math.log(0.75)) / 3
    assert loss_of(HIGH, [EVEN, LOW], num_items=11, calibration=calibration) == pytest.approx(expected)


@given(st.integers(1, 9), st.integers(10, 1000), st.floats(0, 1))
def test_beta_is_the_formula_of_its_source(num_negatives, num_items, t):
    alpha = num_negatives / (num_items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    of_target = beta * math.log(2) / (num_negatives + 1)  # the target's sigmoid is a half, the negatives' are 0
    found = loss_of(EVEN, [-100.0] * num_negatives, num_items=num_items, calibration=t)
    assert found == pytest.approx(of_target, rel=1e-4, abs=1e-6)


def test_without_calibration_it_is_the_binary_cross_entropy_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator).requires_grad_()
    labels = torch.zeros(4, 6)
    labels[:, 0] = 1.0
    expected = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
    found = gbce(
        logits[:, 0],
        logits[:, 1:],
        log_expected_count=torch.full((5,), 5 / 20).log(),
        left_out=torch.zeros(4, 5, dtype=torch.bool),
        num_items=21,
        calibration=0.0,
    )
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found.sum(), logits), torch.autograd.grad(expected.sum(), logits))


def test_a_negative_that_is_left_out_is_none_of_the_sample():
    # One of two negatives is left: alpha 1/10, beta 1/10, divided by 2; it was expected 2/10 times, so it counts half.
    expected = -(0.1 * math.log(0.5) + 0.5 * math.log(0.25)) / 2
    found = loss_of(
        EVEN, [HIGH, 50.0], num_items=11, calibration=1.0, expected_counts=[0.2, 0.2], left_out=[False, True]
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_negatives_are_drawn_by_their_part_is_that_of_even_draws(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, -2.0, 0.0])
    probabilities = torch.tensor([10.0, 5.0, 1.0, 3.0, 1.0, 0.5]) / 20.5
    num_negatives = 50_000
    rows = torch.multinomial(probabilities, num_negatives, replacement=True, generator=generator)
    found = gbce(
        torch.tensor([100.0]),  # a target that costs nothing
        logits[rows].unsqueeze(0),
        log_expected_count=(num_negatives * probabilities[rows]).log(),
        left_out=(rows == 3).unsqueeze(0),
        num_items=6,
        calibration=0.0,
    )
    # With every item drawn alpha is 1: the sum over the other five, divided by the number of negatives.
    others = functional.softplus(logits)[[0, 1, 2, 4, 5]].sum()
    assert (found * ((rows != 3).sum() + 1)).item() == pytest.approx(others.item(), rel=0.05)


@pytest.mark.parametrize("calibration", [-0.1, 1.1])
def test_a_calibration_outside_its_range_is_refused(calibration):
    with pytest.raises(ValueError, match=f"calibration must be from 0 to 1; got {calibration}"):
        Gbce(calibration=calibration)


def test_it_never_reads_all_items_and_needs_a_second_one():
    assert Gbce(calibration=0.75).over_all(2) is None
    with pytest.raises(UnfitPieces, match="compares a target with other items, and there are 1"):
        Gbce(calibration=0.75).over_sample(1)


def test_the_number_of_items_is_that_of_the_catalogue():
    over_sample = Gbce(calibration=1.0).over_sample(11)
    found = over_sample(
        torch.tensor([EVEN]),
        torch.tensor([[EVEN]]),
        log_expected_count=torch.tensor([0.1]).log(),
        left_out=torch.tensor([[False]]),
    )
    # beta = alpha = 1/10, and the negative counts once
    assert found.item() == pytest.approx(1.1 * math.log(2) / 2)
