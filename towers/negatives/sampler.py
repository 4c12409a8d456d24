"""Where negatives come from: sources that are drawn from, and what a corrected loss needs to know of a sample.

Owns the correction of a sample that several sources make together. How one source draws is its own file's job.

Shapes: R rows of the item table, P targets of a step, of all ranks, M negatives shared by all positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from features.vocab import FIRST
from towers.negatives.items import TrainingItems
from towers.ranks import gathered

if TYPE_CHECKING:
    from towers.negatives.hard import Hard


@dataclass(frozen=True)
class Negatives:
    """A sample shared by all positions of a step.

    Attributes:
        rows: [M] ItemRow; PADDING stands for none.
        log_expected_count: [M] log of the number of times that a sample holds each one's item on average.
    """

    rows: Tensor
    log_expected_count: Tensor


class Sampler(nn.Module):
    """One source, ready to be drawn from. Whatever it draws in a step follows the same distribution over rows.

    Attributes:
        probabilities: [R] chance of each row in one draw.
        reads_targets: whether it draws from the steps' targets.
    """

    probabilities: Tensor
    reads_targets: bool = False

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.register_buffer("probabilities", probabilities.float(), persistent=False)

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[P] ItemRow of the step's targets, PADDING for none -> rows drawn, PADDING for none."""
        raise NotImplementedError


class SharedNegatives(nn.Module):
    """Draws from one source or from several at once.

    With several, an item is expected as often as all of them together bring it, whichever brought it this time (the
    deterministic mixture): the correction stays finite where one source has an item that another never draws.

    Targets are those of all ranks; what reads none is drawn by each rank for its own positions.

    Source: Yang et al., WWW 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations";
    Owen and Zhou, JASA 2000, "Safe and Effective Importance Sampling".
    """

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        super().__init__()
        self.samplers = nn.ModuleList(samplers)
        self._reads_targets = any(sampler.reads_targets for sampler in samplers)

    def forward(self, targets: Tensor, *, capacity: int, generator: torch.Generator | None = None) -> Negatives:
        """A step's sample.

        Args:
            targets: [P] ItemRow of this rank's targets.
            capacity: targets that a rank has at most, the same on all.
            generator: of the draws; None is the device's own.
        """
        if self._reads_targets:
            targets = gathered(targets, capacity=capacity)
        drawn = [sampler(targets, generator) for sampler in self.samplers]
        rows = torch.cat(drawn)  # [M]
        expected = torch.zeros_like(rows, dtype=torch.float32)
        for sampler, part in zip(self.samplers, drawn, strict=True):
            expected = expected + (part >= FIRST).sum() * sampler.probabilities[rows]  # type: ignore[index]
        # What stands for none has no count, and nobody reads its logarithm.
        return Negatives(rows=rows, log_expected_count=torch.where(rows >= FIRST, expected, 1.0).log())


class NegativeSource(Protocol):
    """Settings of a source, which conf/negatives/*.yaml names."""

    @property
    def hard(self) -> "Hard | None":
        """How negatives are mined for each position beside the shared ones, if they are."""

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """What draws the shared ones.

        Raises:
            UnfitPieces: the source cannot draw so many, or anything, from these items.
        """
