"""Bayesian personalised ranking: the target above each of its negatives.

Shapes: P positions with a target, M negatives.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from towers.losses.loss import OverAll, OverSample


def bpr(positive_logits: Tensor, negative_logits: Tensor, *, log_expected_count: Tensor, left_out: Tensor) -> Tensor:
    """Mean over negatives of -log sigmoid(positive - negative).

    It stands for no sum over all items, so there is nothing to correct: what is drawn is what the target is compared
    with, and drawing by frequency asks for more than drawing evenly.

    Args:
        positive_logits: [P] scores of the targets.
        negative_logits: [P, M] scores of the negatives.
        log_expected_count: not read.
        left_out: [P, M] true where a negative does not count, such as where it happens to be the position's target.

    Returns:
        [P] loss of each position; 0 where no negative counts.

    Source: Rendle et al., UAI 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback".
    """
    pairs = functional.softplus(negative_logits.float() - positive_logits.float().unsqueeze(1))  # [P, M]
    return pairs.masked_fill(left_out, 0.0).sum(dim=1) / (~left_out).sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class Bpr:
    """BPR, which has no settings."""

    takes_hard: ClassVar[bool] = True

    def over_all(self, num_items: int) -> OverAll | None:
        """None: it is a loss of samples."""
        return None

    def over_sample(self, num_items: int) -> OverSample:
        """Whatever the number of items."""
        return bpr
