"""What the transformer towers share: blocks over encoded events, each with the query's context.

Owns the way through them. What a block is stands in causal.py and gated.py.

Shapes: B queries, L history length, D embedding width.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from towers.query_towers.attention import causal_mask
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding


class TransformerQueryTower(nn.Module):
    """See protocol.py.

    Args:
        history: encodes events.
        context: of the query, added at every position.
        blocks: called with states [B, L, D] and a mask [B, 1, L, L], true where a position may look.
        width: D.
        dropout: of what goes into the first block.
    """

    def __init__(
        self,
        *,
        history: HistoryEncoding,
        context: QueryContext,
        blocks: Iterable[nn.Module],
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.history = history
        self.context = context
        self.input_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.output_norm = nn.LayerNorm(width)

    def states(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, L, D]."""
        # Padding is the context alone, position and all: so it is the same wherever the window begins.
        states = self.input_dropout(self.history(inputs) + self.context(inputs).unsqueeze(1))
        mask = causal_mask(inputs.history_mask)
        for block in self.blocks:
            states = block(states, mask)
        normalised: Tensor = self.output_norm(states)
        return normalised

    def forward(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, D]."""
        return self.states(inputs)[:, -1]
