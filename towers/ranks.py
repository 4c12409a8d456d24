"""What the ranks of a data-parallel run tell one another in a step of stage 1.

Owns the collectives; without a process group, or with one rank, each function gives back what one rank knows.

Shapes: W ranks, P positions of this rank.
"""

import torch
from torch import Tensor
from torch.distributed import (
    all_gather_into_tensor,
    all_reduce,
    get_world_size,
    is_available,
    is_initialized,
)

from features.vocab import PADDING


def num_ranks() -> int:
    """Ranks of the run."""
    return get_world_size() if is_available() and is_initialized() else 1


def gathered(rows: Tensor, *, capacity: int) -> Tensor:
    """Rows of all ranks, in the order of ranks.

    Only rows travel: every rank holds the whole tables, embeds what it is told, and gets gradients for it.

    Args:
        rows: [P] ItemRow.
        capacity: rows that a rank has at most; the same on all ranks.

    Returns:
        [W * capacity], PADDING where a rank has fewer; of one rank what it has.
    """
    if num_ranks() == 1:
        return rows
    own = rows.new_full((capacity,), PADDING)
    own[: len(rows)] = rows
    everyones = rows.new_empty((num_ranks() * capacity,))
    all_gather_into_tensor(everyones, own)
    return everyones


def mean_over_ranks(losses: Tensor) -> Tensor:
    """[P] -> what, averaged over ranks as gradients are, is the mean over all ranks' positions.

    Means of ranks with different numbers of positions would weigh the positions of the smaller one more.
    """
    if num_ranks() == 1:
        return losses.mean()
    num_positions = torch.full((), float(len(losses)), device=losses.device)
    all_reduce(num_positions)
    return losses.sum() * (num_ranks() / num_positions)
