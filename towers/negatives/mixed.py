"""Negatives of several sources at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from towers.negatives.items import TrainingItems
from towers.negatives.sampler import NegativeSource, Sampler


@dataclass(frozen=True)
class Mixed:
    """All that the sources draw, corrected by what they draw together.

    Attributes:
        sources: of negatives that all positions share.
    """

    sources: Sequence[NegativeSource]
    hard: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("negatives.sources is empty: name one source at least")
        if any(source.hard is not None for source in self.sources):
            raise ValueError("negatives.sources are shared by all positions: put Hard around the mixture, not into it")

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """Those of all sources."""
        return [sampler for source in self.sources for sampler in source.samplers(items)]
