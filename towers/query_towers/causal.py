"""The query tower of the SASRec form: a causal transformer over the history.

Source: Kang and McAuley, ICDM 2018, "Self-attentive sequential recommendation".

Shapes: B queries, L history length, D embedding width.
"""

from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from towers.query_towers.attention import CausalAttention, causal_mask
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding


class CausalBlock(nn.Module):
    """Pre-norm transformer block with causal self-attention."""

    def __init__(self, *, width: int, num_heads: int, feed_forward_factor: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width=width, num_heads=num_heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        # No dropout inside: drawing its mask took a quarter of a step on the CPU and changed nothing (docs/log.md).
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward_factor * width), nn.GELU(), nn.Linear(feed_forward_factor * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D], [B, 1, L, L] true where a position may look -> [B, L, D]."""
        states = states + self.dropout(self.attention(self.attention_norm(states), attention_mask))
        states = states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        return states


class CausalQueryTower(nn.Module):
    """Transformer blocks over encoded events, each with the query's context; see protocol.py."""

    def __init__(
        self,
        *,
        history: HistoryEncoding,
        context: QueryContext,
        width: int,
        num_blocks: int = 2,
        num_heads: int = 2,
        feed_forward_factor: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.history = history
        self.context = context
        self.input_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(width=width, num_heads=num_heads, feed_forward_factor=feed_forward_factor, dropout=dropout)
            for _ in range(num_blocks)
        )
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
