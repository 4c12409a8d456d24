"""The full softmax of an inner product on a CPU, with the products and their exponentials made a few rows at a time.

As functions of torch, cross entropy passes four times over logits that no cache holds; here a block of rows is done
with while it lies in the cache, and its exponentials, made once, become its gradient where they lie.

Shapes: P positions with a target, N items, D embedding width, C positions of a block.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_LOGITS = 2**18  # 1 MiB in fp32: what a core keeps to itself
MIN_BLOCK_ROWS = 64  # fewer make slow products


class ProductSoftmax(torch.autograd.Function):
    """Cross entropy of each target among the products of its state with all items; see product_softmax."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """[P, D], [N, D], [P] -> [P]."""
        exponentials = states.new_empty(len(states), len(items))  # of logits less their row's highest
        sums, losses = states.new_empty(len(states), 1), states.new_empty(len(states), 1)
        for rows in _blocks(exponentials):
            block, target = exponentials[rows], targets[rows].unsqueeze(1)
            torch.mm(states[rows], items.T, out=block)  # [C, D] @ [D, N] -> [C, N]
            of_target, highest = block.gather(1, target), block.amax(dim=1, keepdim=True)
            block.sub_(highest).exp_()
            sums[rows] = block.sum(dim=1, keepdim=True)
            losses[rows] = sums[rows].log() + highest - of_target
        ctx.save_for_backward(states, items, targets, exponentials, sums)
        return losses.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """[P] -> [P, D], [N, D]: of each position, what the softmax puts on an item less what the target does."""
        states, items, targets, exponentials, sums = ctx.saved_tensors
        of_states, of_items = torch.empty_like(states), torch.zeros_like(items)
        for rows in _blocks(exponentials):
            block, share = exponentials[rows], gradient[rows].unsqueeze(1)
            # In place: autograd refuses a second pass over the same graph, for what it saved was changed.
            block.mul_(share / sums[rows]).scatter_add_(1, targets[rows].unsqueeze(1), -share)
            torch.mm(block, items, out=of_states[rows])  # [C, N] @ [N, D] -> [C, D]
            of_items.addmm_(block.T, states[rows])  # [N, C] @ [C, D] -> [N, D]
        return of_states, of_items, None


def product_softmax(states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each target among the products of its state with all items.

    Args:
        states: [P, D] fp32 on a CPU.
        items: [N, D].
        targets: [P] place of the target among the items.

    Returns:
        [P] loss of each position.
    """
    losses: Tensor = ProductSoftmax.apply(states, items, targets)  # type: ignore[no-untyped-call]
    return losses


def _blocks(logits: Tensor) -> list[slice]:
    size = max(BLOCK_LOGITS // max(logits.shape[1], 1), MIN_BLOCK_ROWS)
    return [slice(start, start + size) for start in range(0, len(logits), size)]
