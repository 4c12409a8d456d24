"""The query tower that knows no order: the mean of the events so far, through a feed-forward head.

The simplest tower that can be trained: what a better one is worth is measured from here.

Shapes: B queries, L history length, D embedding width.
"""

from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding


class MeanQueryTower(nn.Module):
    """Mean of the encoded events up to each position, the query's context, and a head; see protocol.py."""

    def __init__(
        self,
        *,
        history: HistoryEncoding,
        context: QueryContext,
        width: int,
        feed_forward_factor: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.history = history
        self.context = context
        self.input_dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, feed_forward_factor * width),
            nn.GELU(),
            nn.Linear(feed_forward_factor * width, width),
        )
        self.output_norm = nn.LayerNorm(width)

    def states(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, L, D]."""
        events = self.input_dropout(self.history(inputs))
        num_events = inputs.history_mask.cumsum(dim=1).clamp(min=1).unsqueeze(-1)
        # [B, L, D] / [B, L, 1], then + [B, 1, D]
        states = events.cumsum(dim=1) / num_events + self.context(inputs).unsqueeze(1)
        normalised: Tensor = self.output_norm(states + self.head(states))
        return normalised

    def forward(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, D]."""
        return self.states(inputs)[:, -1]
