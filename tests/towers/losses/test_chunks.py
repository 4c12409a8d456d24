from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from towers.losses.bpr import bpr
from towers.losses.chunks import in_chunks
from towers.losses.gbce import Gbce
from towers.losses.loss import OverSample
from towers.losses.softmax import full_softmax, sampled_softmax

P, D, M = 40, 8, 300


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor made meanwhile had."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.num_elements = max(self.num_elements, part.numel())
        return result


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """[P, D] states and targets, [M, D] negatives."""
    generator = torch.Generator().manual_seed(0)
    states, targets, negatives = (torch.randn(rows, D, generator=generator).requires_grad_() for rows in (P, P, M))
    return states, targets, negatives


def losses_of(loss: OverSample, *, max_logits: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[P] losses and the gradients of states, targets and negatives; some negatives are some positions' targets."""
    states, targets, negatives = inputs()
    rows, log_expected_count = torch.arange(M), torch.linspace(-2, 2, M)

    def losses(states: Tensor, targets: Tensor, target_rows: Tensor) -> Tensor:
        return loss(
            (states * targets).sum(dim=1),
            states @ negatives.T,
            log_expected_count=log_expected_count,
            left_out=rows == target_rows.unsqueeze(1),
        )

    found = in_chunks(losses, states, targets, torch.arange(P), num_logits=M, max_logits=max_logits)
    weights = torch.linspace(0.5, 1.5, P)  # so that no two positions are alike
    return found, torch.autograd.grad((found * weights).sum(), (states, targets, negatives))


@pytest.mark.parametrize("loss", [sampled_softmax, bpr, Gbce(calibration=0.75).over_sample(1000)])
@pytest.mark.parametrize("max_logits", [1, M, 7 * M + 5, P * M - 1])
def test_in_chunks_losses_and_gradients_are_those_of_all_at_once(loss, max_logits):
    in_parts, of_parts = losses_of(loss, max_logits=max_logits)
    at_once, of_whole = losses_of(loss, max_logits=P * M)
    assert_close(in_parts, at_once, atol=1e-5, rtol=1e-5)
    assert_close(of_parts, of_whole, atol=1e-5, rtol=1e-5)


def test_the_full_softmax_in_chunks_is_that_of_all_at_once():
    states, _, items = inputs()
    places = torch.arange(P)
    for_parts, whole = (
        in_chunks(
            lambda states, places: full_softmax(states @ items.T, places),
            states,
            places,
            num_logits=M,
            max_logits=max_logits,
        )
        for max_logits in (3 * M, P * M)
    )
    assert_close(for_parts, whole, atol=1e-5, rtol=1e-5)


def peak(max_logits: int) -> tuple[int, int]:
    """Most elements of any tensor made in a forward and a backward pass, and most saved at once between the two."""
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with Largest() as largest, saved_tensors_hooks(pack, lambda tensor: tensor):
        losses_of(sampled_softmax, max_logits=max_logits)
    return largest.num_elements, sum(saved)


def test_memory_is_bounded_by_a_chunk_in_both_passes():
    # All at once: [P, M] logits beside the target's, and the loss saves several such tensors for the backward pass.
    largest, saved = peak(P * M)
    assert largest == P * (M + 1)
    assert saved > 2 * P * M
    # 8 positions at a time: nothing larger is made than a chunk's logits or what came in, in neither pass. What is
    # saved between the passes are inputs: of each of 5 chunks the states, the targets and the negatives.
    largest, saved = peak(8 * M)
    assert largest == max(8 * (M + 1), M * D)
    assert saved < 5 * (2 * 8 * D + M * D) + P * 8


def test_few_logits_are_made_once():
    calls = []

    def losses(states: Tensor) -> Tensor:
        calls.append(len(states))
        return states.exp().sum(dim=1)

    states = torch.ones(4, 2, requires_grad=True)
    in_chunks(losses, states, num_logits=10, max_logits=40).sum().backward()
    assert calls == [4]
    in_chunks(losses, states, num_logits=10, max_logits=39).sum().backward()
    # in parts of three and one, in the forward pass and again in the backward pass
    assert sorted(calls[1:]) == [1, 1, 3, 3]
