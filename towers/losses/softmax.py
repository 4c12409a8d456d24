"""Softmax cross entropy of the target: over all items, or estimated from a corrected sample.

Shapes: P positions with a target, N items, M negatives, D embedding width.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from towers.errors import UnfitPieces
from towers.losses.loss import OverAll, OverSample
from towers.losses.product_softmax import product_softmax


def full_softmax(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the target among all items.

    Args:
        logits: [P, N] scores of all items.
        targets: [P] place of the target among them.
        label_smoothing: share of the target that is spread evenly over all items.

    Returns:
        [P] loss of each position.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)


def softmax_over_items(states: Tensor, items: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross entropy of the target among the products of its state with all items.

    Args:
        states: [P, D].
        items: [N, D].
        targets: [P] place of the target among them.
        label_smoothing: share of the target that is spread evenly over all items.

    Returns:
        [P] loss of each position.
    """
    is_plain = states.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not label_smoothing
    if is_plain and states.dtype == items.dtype == torch.float32:
        return product_softmax(states, items, targets)
    return full_softmax(states @ items.T, targets, label_smoothing=label_smoothing)  # [P, D] @ [D, N] -> [P, N]


def sampled_softmax(
    positive_logits: Tensor, negative_logits: Tensor, *, log_expected_count: Tensor, left_out: Tensor
) -> Tensor:
    """Cross entropy of the target against sampled negatives, corrected for how often each is sampled.

    The sum over negatives estimates the full softmax's sum over all other items: a negative that enters the sample
    c times on average counts exp(logit) / c, that is logit - log c.

    Args:
        positive_logits: [P] scores of the targets.
        negative_logits: [P, M] scores of the negatives.
        log_expected_count: [M] log of the number of times that each negative's item is expected in the sample.
        left_out: [P, M] true where a negative does not count, such as where it happens to be the position's target.

    Returns:
        [P] loss of each position.

    Source: Bengio and Senecal, 2008, "Adaptive importance sampling"; Yi et al., RecSys 2019.
    """
    # In fp32: below 6e-8 an fp16 probability rounds to 0, and a rare item's corrected logit becomes +inf.
    corrected = negative_logits.float() - log_expected_count.float()
    corrected = corrected.masked_fill(left_out, float("-inf"))
    positive = positive_logits.float().unsqueeze(1)
    return torch.logsumexp(torch.cat([positive, corrected], dim=1), dim=1) - positive.squeeze(1)


@dataclass(frozen=True)
class Softmax:
    """Full softmax where there are few items, sampled softmax where there are more.

    Attributes:
        full_up_to: items up to which all of them are negatives; above, and always where it is 0, negatives are
            sampled. None never samples.
        label_smoothing: of the full softmax.
    """

    full_up_to: int | None
    label_smoothing: float = 0.0
    takes_hard: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.full_up_to is not None and self.full_up_to < 0:
            raise ValueError(f"full_up_to must be a number of items, 0 or more, or null; got {self.full_up_to}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be at least 0 and below 1; got {self.label_smoothing}")

    def over_all(self, num_items: int) -> OverAll | None:
        """Full softmax, if there are few enough items."""
        if self.full_up_to is not None and num_items > self.full_up_to:
            return None
        return partial(softmax_over_items, label_smoothing=self.label_smoothing)

    def over_sample(self, num_items: int) -> OverSample:
        """Sampled softmax.

        Raises:
            UnfitPieces: labels are to be smoothed over items that are not there.
        """
        if self.label_smoothing:
            raise UnfitPieces(
                f"loss.label_smoothing={self.label_smoothing} needs the full softmax, and {num_items} items are more "
                f"than loss.full_up_to={self.full_up_to}: set loss.label_smoothing=0, or loss=full_softmax"
            )
        return sampled_softmax
