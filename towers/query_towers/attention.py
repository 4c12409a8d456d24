"""Self-attention in which every position looks at itself and at earlier events, for the towers made of blocks.

Shapes: B queries, L history length, D embedding width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalAttention(nn.Module):
    """Multi-head attention; norms and residuals are the block's business."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"towers.width must be a multiple of towers.query_tower.num_heads; got {width} and {num_heads}"
            )
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D], [B, 1, L, L] true where a position may look -> [B, L, D]."""
        batch, length, width = states.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)
            for part in self.query_key_value(states).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        result: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return result


def causal_mask(history_mask: Tensor) -> Tensor:
    """Where each position may look, [B, L] true where there is an event -> [B, 1, L, L].

    A padding position looks at itself, so that no row of the softmax is empty; nobody else looks at padding.
    """
    place = torch.arange(history_mask.shape[1], device=history_mask.device)
    causal, itself = place[:, None] >= place[None, :], place[:, None] == place[None, :]
    return ((causal & history_mask[:, None, :]) | itself).unsqueeze(1)
