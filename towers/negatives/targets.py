"""Negatives that are other positions' targets: those of the step itself, and those of the steps before.

Both are as frequent as items are in training, so they teach against popular items most, and never against one without
an event: where such items can be recommended, mix them with an even source.

Shapes: R rows of the item table, P targets of a step, of all ranks, K places of a queue.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from features.vocab import FIRST, PADDING
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import Sampler


class TargetsOfStep(Sampler):
    """The step's targets, of all ranks. A position's own is left out where the loss is made."""

    reads_targets = True

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[P] -> [P]."""
        return targets


class TargetsBefore(Sampler):
    """The newest targets of the steps before, of all ranks. It keeps rows: they are embedded as the tower now is."""

    reads_targets = True
    newest: Tensor

    def __init__(self, probabilities: Tensor, *, num_negatives: int) -> None:
        super().__init__(probabilities)
        # Kept in checkpoints, so that a run that goes on has the same negatives.
        self.register_buffer("newest", torch.full((num_negatives,), PADDING))

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[P] -> [K], PADDING where there were not yet so many; the targets join the queue."""
        drawn = self.newest
        both = torch.cat([targets, drawn])
        # What stands for none goes to the end, in a stable sort: picking by a mask would wait for the device.
        order = torch.argsort((both < FIRST).byte(), stable=True)
        self.newest = both[order[: len(drawn)]]
        return drawn


@dataclass(frozen=True)
class InBatch:
    """The targets of the batch's other positions; under DDP of all ranks' batches."""

    hard: ClassVar[None] = None

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """One."""
        return [TargetsOfStep(_frequencies(items))]


@dataclass(frozen=True)
class Queue:
    """The targets of the last steps, embedded afresh.

    Attributes:
        num_negatives: K, the newest that are kept; under DDP of all ranks together.
    """

    num_negatives: int
    hard: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1; got {self.num_negatives}")

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """One, empty."""
        return [TargetsBefore(_frequencies(items), num_negatives=self.num_negatives)]


def _frequencies(items: TrainingItems) -> Tensor:
    """[R] share of each row in the training events, each of which is a target once in an epoch."""
    return torch.from_numpy(items.counts / items.counts.sum())
