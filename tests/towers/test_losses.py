import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from towers.losses import sampled_softmax


def loss_of(
    positive: float, negatives: list[float], *, expected_counts: list[float], is_target: list[bool] | None = None
) -> float:
    """Loss of one position."""
    return sampled_softmax(
        torch.tensor([positive]),
        torch.tensor([negatives]),
        log_expected_count=torch.tensor(expected_counts).log(),
        is_target=torch.tensor([is_target or [False] * len(negatives)]),
    ).item()


def test_with_every_other_item_sampled_once_it_is_the_full_softmax():
    # target exp(0) = 1, the others 2 and 3 -> -log(1 / 6)
    assert loss_of(0.0, [math.log(2), math.log(3)], expected_counts=[1, 1]) == pytest.approx(math.log(6))


def test_an_item_expected_twice_counts_half_each_time():
    # 1 + 2 / 2 + 3 = 5 when it was drawn once, 1 + 2 / 2 + 2 / 2 + 3 = 6 when it was drawn as often as expected
    assert loss_of(0.0, [math.log(2), math.log(3)], expected_counts=[2, 1]) == pytest.approx(math.log(5))
    twice = loss_of(0.0, [math.log(2), math.log(2), math.log(3)], expected_counts=[2, 2, 1])
    assert twice == pytest.approx(math.log(6))


def test_a_rare_negative_stands_for_the_many_that_were_not_drawn():
    # Drawn once in 10 samples: 1 + 2 * 10 = 21. With the correction's sign reversed it would be 1 + 2 / 10.
    assert loss_of(0.0, [math.log(2)], expected_counts=[0.1]) == pytest.approx(math.log(21))


def test_a_negative_that_is_the_target_itself_is_left_out():
    with_hit = loss_of(0.0, [math.log(2), math.log(50)], expected_counts=[1, 1], is_target=[False, True])
    assert with_hit == pytest.approx(math.log(3))


def test_a_position_whose_negatives_are_all_its_target_learns_nothing():
    positive = torch.tensor([0.5], requires_grad=True)
    negatives = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = sampled_softmax(positive, negatives, log_expected_count=torch.zeros(2), is_target=torch.ones(1, 2).bool())
    loss.sum().backward()
    assert loss.item() == 0.0
    assert positive.grad is not None
    assert negatives.grad is not None
    assert positive.grad.tolist() == [0.0]
    assert negatives.grad.tolist() == [[0.0, 0.0]]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 8))
def test_over_the_whole_catalogue_it_equals_cross_entropy_and_so_do_its_gradients(seed, num_positions, num_items):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(num_positions, num_items, generator=generator) * 5).requires_grad_()
    targets = torch.randint(num_items, (num_positions,), generator=generator)
    full = functional.cross_entropy(logits, targets, reduction="none")
    sampled = sampled_softmax(
        logits.gather(1, targets.unsqueeze(1)).squeeze(1),
        logits,
        log_expected_count=torch.zeros(num_items),
        is_target=targets.unsqueeze(1) == torch.arange(num_items),
    )
    assert_close(sampled, full, atol=1e-5, rtol=1e-5)
    (of_full,) = torch.autograd.grad(full.sum(), logits, retain_graph=True)
    (of_sampled,) = torch.autograd.grad(sampled.sum(), logits)
    assert_close(of_sampled, of_full, atol=1e-5, rtol=1e-5)


def sampled_from(
    logits: Tensor, *, target: int, probabilities: Tensor, num_negatives: int, corrected: bool = True, seed: int = 0
) -> float:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(probabilities, num_negatives, replacement=True, generator=generator)
    counts = num_negatives * probabilities[rows] if corrected else torch.ones(num_negatives)
    loss = sampled_softmax(
        logits[target].unsqueeze(0),
        logits[rows].unsqueeze(0),
        log_expected_count=counts.log(),
        is_target=(rows == target).unsqueeze(0),
    )
    return loss.item()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [10.0, 5.0, 1.0, 3.0, 1.0, 0.5]])
def test_the_estimate_converges_to_the_full_softmax_whatever_negatives_are_drawn_by(weights):
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, -2.0, 0.0])
    probabilities = torch.tensor(weights) / sum(weights)
    full = functional.cross_entropy(logits.unsqueeze(0), torch.tensor([3])).item()
    few, many = (
        [
            abs(sampled_from(logits, target=3, probabilities=probabilities, num_negatives=count, seed=seed) - full)
            for seed in range(10)
        ]
        for count in (500, 50_000)
    )
    # By the skewed weights exp(loss) is 1 + a mean of terms of deviation 24, and 9.8 in truth: over 50,000 draws it
    # errs by 0.11, so the loss by 0.011. A hundred times fewer draws err ten times more.
    assert max(many) < 0.04
    assert sum(many) < sum(few) / 3


def test_without_the_correction_the_estimate_grows_with_the_sample():
    logits = torch.zeros(6)
    probabilities = torch.full((6,), 1 / 6)
    wrong = sampled_from(logits, target=3, probabilities=probabilities, num_negatives=6000, corrected=False)
    # about 5,000 negatives that are not the target, each counted whole, instead of 5
    assert wrong == pytest.approx(math.log(5001), abs=0.05)
    right = sampled_from(logits, target=3, probabilities=probabilities, num_negatives=6000)
    assert right == pytest.approx(math.log(6), abs=0.05)


def test_half_precision_logits_and_very_rare_items_stay_finite():
    loss = sampled_softmax(
        torch.tensor([3.0], dtype=torch.float16),
        torch.tensor([[2.0, 1.0]], dtype=torch.float16),
        log_expected_count=torch.tensor([1e-9, 1e-30]).log(),
        is_target=torch.zeros(1, 2, dtype=torch.bool),
    )
    # log(1 + e^-1 * 1e9 + e^-2 * 1e30) = 30 ln 10 - 2 to float precision
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(30 * math.log(10) - 2, rel=1e-5)


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=6),
    st.floats(-20, 20),
    st.floats(0.01, 5),
)
def test_the_loss_is_never_negative_ignores_a_shift_and_falls_with_the_targets_score(logits, shift, rise):
    positive, negatives = logits[0], logits[1:]
    counts = [1.0] * len(negatives)
    loss = loss_of(positive, negatives, expected_counts=counts)
    assert loss >= -1e-5  # fp32 at logits of up to 40
    shifted = loss_of(positive + shift, [logit + shift for logit in negatives], expected_counts=counts)
    assert shifted == pytest.approx(loss, abs=1e-4)
    assert loss_of(positive + rise, negatives, expected_counts=counts) <= loss + 1e-5
