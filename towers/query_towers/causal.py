"""The query tower of the SASRec form: a causal transformer over the history.

Source: Kang and McAuley, ICDM 2018, "Self-attentive sequential recommendation".

Shapes: B queries, L history length, D embedding width.
"""

from torch import Tensor, nn

from towers.query_towers.attention import CausalAttention
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding
from towers.query_towers.transformer import TransformerQueryTower


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


class CausalQueryTower(TransformerQueryTower):
    """Plain blocks; see protocol.py."""

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
        blocks = (
            CausalBlock(width=width, num_heads=num_heads, feed_forward_factor=feed_forward_factor, dropout=dropout)
            for _ in range(num_blocks)
        )
        super().__init__(history=history, context=context, blocks=blocks, width=width, dropout=dropout)
