"""Negatives drawn from the catalogue: evenly, or by how often items occur in training.

Shapes: R rows of the item table, N rows that can be drawn, M drawn in a step.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from towers.errors import UnfitPieces
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import Sampler


class WithReplacement(Sampler):
    """Draws rows independently, each by the same probabilities."""

    cumulated: Tensor

    def __init__(self, probabilities: Tensor, *, num_negatives: int) -> None:
        super().__init__(probabilities)
        self.num_negatives = num_negatives
        # In fp64: in fp32 a rare item's share of a large catalogue would round away. A search in it costs log R a
        # draw, where torch.multinomial reads all R each time and ends at 2**24.
        cumulated = probabilities.double().cumsum(0)
        self.register_buffer("cumulated", cumulated / cumulated[-1], persistent=False)

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[P] -> [M], whatever the targets are."""
        places = torch.rand(self.num_negatives, dtype=torch.float64, device=self.cumulated.device, generator=generator)
        return torch.searchsorted(self.cumulated, places, right=True)


class WithoutReplacement(Sampler):
    """Draws every row with the same chance and none twice, at the cost of a permutation of all in each step."""

    rows: Tensor

    def __init__(self, probabilities: Tensor, *, num_negatives: int) -> None:
        super().__init__(probabilities)
        self.num_negatives = num_negatives
        self.register_buffer("rows", probabilities.nonzero().squeeze(1), persistent=False)

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[P] -> [M], whatever the targets are."""
        order = torch.randperm(len(self.rows), device=self.rows.device, generator=generator)
        return self.rows[order[: self.num_negatives]]


@dataclass(frozen=True)
class Uniform:
    """Every item with the same chance.

    Attributes:
        num_negatives: M, drawn once a step.
        replacement: whether an item may be drawn twice.
    """

    num_negatives: int
    replacement: bool = True
    hard: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1; got {self.num_negatives}")

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """One, over all items that a target competes with.

        Raises:
            UnfitPieces: more are to be drawn without replacement than there are.
        """
        probabilities = _distribution(items, exponent=0.0)
        if self.replacement:
            return [WithReplacement(probabilities, num_negatives=self.num_negatives)]
        if self.num_negatives > len(items.compared):
            raise UnfitPieces(
                f"negatives.num_negatives={self.num_negatives} cannot be drawn without replacement from "
                f"{len(items.compared)} items: draw fewer, set negatives.replacement=true, or loss=full_softmax"
            )
        return [WithoutReplacement(probabilities, num_negatives=self.num_negatives)]


@dataclass(frozen=True)
class Frequency:
    """In proportion to (training frequency) ** exponent, with replacement.

    Exponent 0 is uniform, 1 is as often as in a batch of events.

    Attributes:
        num_negatives: M, drawn once a step.
        exponent: between uniform (0) and the items' frequency (1).
    """

    num_negatives: int
    exponent: float
    hard: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1 or not 0.0 <= self.exponent <= 1.0:
            raise ValueError(
                "negatives needs num_negatives >= 1 and 0 <= exponent <= 1; "
                f"got {self.num_negatives} and {self.exponent}"
            )

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """One, over all items that a target competes with."""
        probabilities = _distribution(items, exponent=self.exponent)
        return [WithReplacement(probabilities, num_negatives=self.num_negatives)]


def _distribution(items: TrainingItems, *, exponent: float) -> Tensor:
    """[R] chance of each row in one draw.

    What can be recommended without ever having been chosen is a negative too, as often as what was chosen once.
    """
    weights = np.zeros(len(items.counts))
    weights[items.compared] = np.maximum(items.counts[items.compared], 1.0) ** exponent
    return torch.from_numpy(weights / weights.sum())
