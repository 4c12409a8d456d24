"""Negatives that the model itself scores high, mined for each position.

Owns what is mined and what is spared. They come beside shared negatives and are not corrected: no sample brings them
by chance.

Shapes: R rows of the item table, D embedding width, B windows, P positions, T events of the query that had most,
H mined for a position, S ranks that are skipped.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from features.vocab import PADDING
from towers.errors import UnfitPieces
from towers.losses.chunks import MAX_LOGITS
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import NegativeSource, Sampler


class HardNegatives(nn.Module):
    """Mines the catalogue as it was embedded last."""

    is_compared: Tensor
    catalogue: Tensor | None

    def __init__(self, settings: "Hard", items: TrainingItems) -> None:
        super().__init__()
        needed = settings.skipped + settings.num_hard
        if len(items.compared) <= needed:
            raise UnfitPieces(
                f"negatives.skipped={settings.skipped} and negatives.num_hard={settings.num_hard} need more than "
                f"{needed} items, and there are {len(items.compared)}: lower them, or choose negatives=uniform"
            )
        if items.of_queries is None:
            raise UnfitPieces("mined negatives need to know what each query had: pass TrainingItems.of_queries")
        self.settings = settings
        is_compared = torch.zeros(len(items.counts), dtype=torch.bool)
        is_compared[torch.from_numpy(items.compared)] = True
        self.register_buffer("is_compared", is_compared, persistent=False)
        self.register_buffer("catalogue", None, persistent=False)  # [R, D], once it has been embedded

    def is_due(self, step: int) -> bool:
        """Whether the catalogue is to be embedded at this step of an epoch."""
        return self.catalogue is None or step % self.settings.every_n_steps == 0

    @torch.no_grad()
    def forward(self, states: Tensor, own_rows: Tensor, *, windows: Tensor) -> Tensor:
        """The items with the highest scores, but for the best S and for all that the query had in training.

        Args:
            states: [P, D].
            own_rows: [B, T] ItemRow of the training events of each window's query, PADDING for none.
            windows: [P] which window each position stands in.

        Returns:
            [P, H] ItemRow, best first, PADDING where nothing is left.
        """
        if self.catalogue is None:
            raise ValueError("nothing can be mined before the catalogue is embedded: see is_due")
        catalogue = self.catalogue
        step = max(MAX_LOGITS // len(self.is_compared), 1)
        parts = zip(torch.split(states, step), torch.split(windows, step), strict=True)
        return torch.cat([self._mined(part @ catalogue.T, own_rows[places]) for part, places in parts])

    def _mined(self, scores: Tensor, own_rows: Tensor) -> Tensor:
        scores = scores.masked_fill(~self.is_compared, float("-inf")).scatter(1, own_rows, float("-inf"))  # [P, R]
        best = scores.topk(self.settings.skipped + self.settings.num_hard, dim=1)
        is_left = best.values > float("-inf")
        return torch.where(is_left, best.indices, PADDING)[:, self.settings.skipped :]


@dataclass(frozen=True)
class Hard:
    """Mined negatives for each position beside shared ones.

    Attributes:
        shared: source of the shared ones.
        num_hard: H, mined for each position.
        skipped: S, best ranks that are left out: among them stand items that the query would have chosen, had it
            seen them.
        every_n_steps: steps after which the catalogue is embedded anew, besides every epoch's first; in between, what
            ranks items is as old as that.
    """

    shared: NegativeSource
    num_hard: int
    skipped: int
    every_n_steps: int

    def __post_init__(self) -> None:
        if self.num_hard < 1 or self.skipped < 0 or self.every_n_steps < 1:
            raise ValueError(
                "negatives needs num_hard >= 1, skipped >= 0 and every_n_steps >= 1; "
                f"got {self.num_hard}, {self.skipped} and {self.every_n_steps}"
            )
        if self.shared.hard is not None:
            raise ValueError("negatives.shared is itself mined: name a source that all positions share")

    @property
    def hard(self) -> "Hard":
        """How they are mined."""
        return self

    def samplers(self, items: TrainingItems) -> list[Sampler]:
        """Those of the shared source."""
        return self.shared.samplers(items)
