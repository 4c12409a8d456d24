"""The query tower of LiGR blocks: a causal transformer whose residuals are gated.

Sources: Borisyuk et al. 2025, arXiv 2502.03417, "From features to transformers: redefining ranking for scalable
impact" (LiGR); eSASRec, arXiv 2508.06450, which found these blocks better than SASRec's own.

Shapes: B queries, L history length, D embedding width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from towers.query_towers.attention import CausalAttention
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding
from towers.query_towers.transformer import TransformerQueryTower


class SwiGLU(nn.Module):
    """Feed-forward layer whose hidden half is gated by the other half."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.rise = nn.Linear(width, 2 * hidden)
        self.fall = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, values = self.rise(states).chunk(2, dim=-1)
        result: Tensor = self.fall(functional.silu(gate) * values)
        return result


class GatedBlock(nn.Module):
    """Pre-norm block with attention and SwiGLU; a sigmoid of each part's own input says how much of it is added."""

    def __init__(self, *, width: int, num_heads: int, feed_forward_factor: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width=width, num_heads=num_heads)
        self.attention_gate = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = SwiGLU(width=width, hidden=feed_forward_factor * width)
        self.feed_forward_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D], [B, 1, L, L] true where a position may look -> [B, L, D]."""
        attended = self.attention(self.attention_norm(states), attention_mask)
        states = states + torch.sigmoid(self.attention_gate(states)) * self.dropout(attended)
        fed = self.feed_forward(self.feed_forward_norm(states))
        states = states + torch.sigmoid(self.feed_forward_gate(states)) * self.dropout(fed)
        return states


class GatedQueryTower(TransformerQueryTower):
    """Gated blocks; see protocol.py."""

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
            GatedBlock(width=width, num_heads=num_heads, feed_forward_factor=feed_forward_factor, dropout=dropout)
            for _ in range(num_blocks)
        )
        super().__init__(history=history, context=context, blocks=blocks, width=width, dropout=dropout)
