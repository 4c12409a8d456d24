"""Generalised binary cross entropy, which takes back the overconfidence that sampling negatives brings.

Shapes: P positions with a target, M negatives.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from towers.errors import UnfitPieces
from towers.losses.loss import OverAll, OverSample


def gbce(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    log_expected_count: Tensor,
    left_out: Tensor,
    num_items: int,
    calibration: float,
) -> Tensor:
    """Binary cross entropy of the target to the power beta against n negatives, a share alpha of all other items.

        -(log sigmoid(positive) ** beta + sum over negatives of log(1 - sigmoid(negative))) / (n + 1)
        beta = 1 - t (1 - alpha), alpha = n / (N - 1)

    This is the source's alpha (t (1 - 1 / alpha) + 1 / alpha), multiplied out. The source draws evenly: the sum over
    negatives is alpha times one over all other items. It is estimated as that from negatives drawn otherwise, each of
    which counts alpha / its expected count; where they are drawn evenly this is 1.

    Args:
        positive_logits: [P] scores of the targets.
        negative_logits: [P, M] scores of the negatives.
        log_expected_count: [M] log of the number of times that each negative's item is expected in the sample.
        left_out: [P, M] true where a negative does not count, such as where it happens to be the position's target.
        num_items: N.
        calibration: t; 0 is plain binary cross entropy, at 1 scores are calibrated as if nothing had been sampled.

    Returns:
        [P] loss of each position.

    Source: Petrov and Macdonald, RecSys 2023, "gSASRec: Reducing Overconfidence in Sequential Recommendation".
    """
    num_negatives = (~left_out).sum(dim=1).float()  # [P]
    alpha = (num_negatives / (num_items - 1)).clamp(max=1.0)
    beta = 1.0 - calibration * (1.0 - alpha)
    weights = torch.exp(-log_expected_count.float())  # [M]
    negative = (functional.softplus(negative_logits.float()) * weights).masked_fill(left_out, 0.0).sum(dim=1)
    positive = functional.softplus(-positive_logits.float())
    return (beta * positive + alpha * negative) / (num_negatives + 1.0)


@dataclass(frozen=True)
class Gbce:
    """Settings of gBCE.

    Attributes:
        calibration: t of the source, which takes .75 for most data.
    """

    calibration: float
    takes_hard: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.calibration <= 1.0:
            raise ValueError(f"calibration must be from 0 to 1; got {self.calibration}")

    def over_all(self, num_items: int) -> OverAll | None:
        """None: it is a loss of samples."""
        return None

    def over_sample(self, num_items: int) -> OverSample:
        """With the sampling rate of this many items.

        Raises:
            UnfitPieces: there is no second item.
        """
        if num_items < 2:
            raise UnfitPieces(f"loss=gbce compares a target with other items, and there are {num_items}: add items")
        return partial(gbce, num_items=num_items, calibration=self.calibration)
