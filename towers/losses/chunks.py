"""Losses of more logits than memory should hold at once.

Shapes: P positions with a target.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 64 MiB in fp32, of which a loss makes about four copies. 1,600 positions have it at 10,000 negatives.
MAX_LOGITS = 2**24


def in_chunks(
    losses: Callable[..., Tensor], *of_positions: Tensor, num_logits: int, max_logits: int = MAX_LOGITS
) -> Tensor:
    """`losses(*of_positions)`, of a few positions at a time where all would make more than `max_logits` logits.

    A chunk's logits are freed after its forward pass and made again for its backward pass, so memory holds those of
    one chunk, for twice the products. A position's loss needs no other position's, so nothing else changes.

    Args:
        losses: makes [P] losses of tensors of P positions.
        of_positions: [P, ...] what it is given in slices; all else it may hold by itself.
        num_logits: logits of one position. A chunk has at least one position.
        max_logits: logits of a chunk.
    """
    num_positions = len(of_positions[0])
    if num_positions * num_logits <= max_logits:
        return losses(*of_positions)
    step = max(max_logits // num_logits, 1)
    chunks = zip(*(torch.split(part, step) for part in of_positions), strict=True)
    return torch.cat([checkpoint(losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])
