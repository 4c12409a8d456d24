import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from towers.errors import UnfitPieces
from towers.losses.softmax import Softmax, full_softmax, sampled_softmax


def loss_of(
    positive: float, negatives: list[float], *, expected_counts: list[float], left_out: list[bool] | None = None
) -> float:
    """Loss of one position."""
    return sampled_softmax(
        torch.tensor([positive]),
        torch.tensor([negatives]),
        log_expected_count=torch.tensor(expected_counts).log(),
        left_out=torch.tensor([left_out or [False] * len(negatives)]),
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
    with_hit = loss_of(0.0, [math.log(2), math.log(50)], expected_counts=[1, 1], left_out=[False, True])
    assert with_hit == pytest.approx(math.log(3))


def test_a_position_whose_negatives_are_all_its_target_learns_nothing():
    positive = torch.tensor([0.5], requires_grad=True)
    negatives = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = sampled_softmax(positive, negatives, log_expected_count=torch.zeros(2), left_out=torch.ones(1, 2).bool())
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
        left_out=targets.unsqueeze(1) == torch.arange(num_items),
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
        left_out=(rows == target).unsqueeze(0),
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
        left_out=torch.zeros(1, 2, dtype=torch.bool),
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


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_smoothing_spreads_a_share_of_the_target_over_all_items(seed, share):
    generator = torch.Generator().manual_seed(seed)
    logits, target = torch.randn(1, 5, generator=generator) * 3, torch.tensor([2])
    labels = torch.full((5,), share / 5)
    labels[2] += 1 - share
    by_hand = -(labels * torch.log_softmax(logits[0], dim=0)).sum()
    assert_close(full_softmax(logits, target, label_smoothing=share), by_hand.unsqueeze(0))


def test_the_full_softmax_of_half_precision_logits_is_single_precision():
    # -log(1 / (1 + 2 + 3)), one position
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float16)
    loss = full_softmax(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([math.log(6)], abs=1e-3)


@pytest.mark.parametrize(
    ("full_up_to", "num_items", "is_full"),
    [(20_000, 20_000, True), (20_000, 20_001, False), (0, 2, False), (None, 10**9, True)],
)
def test_the_number_of_items_decides_between_full_and_sampled(full_up_to, num_items, is_full):
    assert (Softmax(full_up_to=full_up_to).over_all(num_items) is not None) == is_full


def test_smoothing_is_handed_to_the_full_softmax_and_refused_where_it_is_sampled():
    loss = Softmax(full_up_to=3, label_smoothing=0.1)
    states, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    logits, targets = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])
    over_all = loss.over_all(3)
    assert over_all is not None
    assert_close(over_all(states, items, targets), full_softmax(logits, targets, label_smoothing=0.1))
    with pytest.raises(UnfitPieces, match=r"label_smoothing=0.1 needs the full softmax, and 4 items are more than"):
        loss.over_sample(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"full_up_to": -1}, "full_up_to must be a number of items, 0 or more, or null; got -1"),
        ({"full_up_to": 0, "label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1; got 1.0"),
    ],
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Softmax(**arguments)
