import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from towers.losses.product_softmax import BLOCK_LOGITS, MIN_BLOCK_ROWS, product_softmax
from towers.losses.softmax import full_softmax, softmax_over_items


def drawn(num_positions: int, num_items: int, *, width: int = 4, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    states, items = (torch.randn(n, width, generator=generator, dtype=dtype) for n in (num_positions, num_items))
    targets = torch.randint(0, num_items, (num_positions,), generator=generator)
    return [states.requires_grad_(), items.requires_grad_(), targets]


def test_it_matches_hand_computation():
    # products 0 and log 3, whose exponentials are 1 and 3: the second has 3/4 of the softmax
    states, items = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3.0)]])
    assert_close(product_softmax(states, items, torch.tensor([1])), torch.tensor([math.log(4 / 3)]))
    assert_close(product_softmax(states, items, torch.tensor([0])), torch.tensor([math.log(4.0)]))


@pytest.mark.parametrize("num_positions", [1, MIN_BLOCK_ROWS, 2 * MIN_BLOCK_ROWS + 1])
def test_losses_and_gradients_are_those_of_cross_entropy_whatever_the_last_block_holds(num_positions):
    num_items = BLOCK_LOGITS // MIN_BLOCK_ROWS  # so that a block has the fewest rows
    weights = torch.linspace(0.5, 2.0, num_positions)
    found = []
    for losses_of in (product_softmax, lambda states, items, targets: full_softmax(states @ items.T, targets)):
        states, items, targets = drawn(num_positions, num_items)
        losses = losses_of(states, items, targets)
        (losses * weights).sum().backward()
        found.append((losses.detach(), states.grad, items.grad))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


def test_its_gradient_is_that_of_small_differences():
    states, items, targets = drawn(5, 7, dtype=torch.float64)
    product_softmax(states, items, targets).sum().backward()
    for part, (row, column) in ((states, (2, 1)), (items, (3, 0))):
        moved = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                part[row, column] += step
                moved.append(product_softmax(states, items, targets).sum())
                part[row, column] -= step
        assert_close(part.grad[row, column], (moved[0] - moved[1]) / 2e-6)


def test_high_products_do_not_overflow():
    # e**200 is no fp32; the other item is too far behind to count
    losses = product_softmax(torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([0]))
    assert losses.tolist() == [0.0]


def test_a_second_pass_over_one_graph_is_refused_rather_than_wrong():
    states, items, targets = drawn(3, 4)
    loss = product_softmax(states, items, targets).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_over_items_it_is_the_full_softmax_of_the_products_with_and_without_smoothing(smoothing):
    states, items, targets = drawn(6, 9)
    expected = full_softmax(states @ items.T, targets, label_smoothing=smoothing)
    assert_close(softmax_over_items(states, items, targets, label_smoothing=smoothing), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = softmax_over_items(states, items, targets, label_smoothing=smoothing)
    assert rough.dtype == torch.float32
    assert_close(rough, expected, rtol=0.1, atol=0.1)
