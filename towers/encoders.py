"""The two towers: a causal transformer over a history, and an item encoder of id, categories, numbers and text.

Owns layers only. Which item stands in which row, what is sampled and what is minimised live elsewhere.

Shapes: B queries, L history length, D embedding width, N items, Cq and Fq query categories and numbers, Ci and Fi item
categories and numbers, M values of a many-valued category, E width of a text embedding (0 where there is no text).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.vocab import PADDING, UNKNOWN


def _initialise(table: nn.Embedding) -> None:
    nn.init.normal_(table.weight, std=0.02)
    with torch.no_grad():
        table.weight[PADDING] = 0.0  # normal_ fills this row too, and no gradient would ever empty it


class CategoryEmbedding(nn.Module):
    """Sum over columns of the mean embedding of each column's values.

    Args:
        sizes: VocabIds of each column, padding and unknown included.
        width: embedding width D.
    """

    def __init__(self, *, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width, padding_idx=PADDING) for size in sizes)
        for table in self.tables:
            _initialise(table)  # type: ignore[arg-type]
        self.width = width

    def forward(self, values: Tensor) -> Tensor:
        """[..., C, M] VocabIds -> [..., D]."""
        total = values.new_zeros((*values.shape[:-2], self.width), dtype=torch.float32)
        for column, table in enumerate(self.tables):
            ids = values[..., column, :]
            count = (ids != PADDING).sum(dim=-1, keepdim=True).clamp(min=1)
            total = total + table(ids).sum(dim=-2) / count
        return total


class ItemTower(nn.Module):
    """Embedding of an item from its id, categories, numbers and text.

    With probability `id_dropout` a training item is shown without its id, so that an item never seen in training,
    whose id is unknown, still gets an embedding from its content.
    """

    def __init__(
        self,
        *,
        num_ids: int,
        category_sizes: tuple[int, ...],
        num_numbers: int,
        text_width: int,
        width: int,
        id_dropout: float,
    ) -> None:
        super().__init__()
        self.id_embedding = nn.Embedding(num_ids, width, padding_idx=PADDING)
        _initialise(self.id_embedding)
        self.categories = CategoryEmbedding(sizes=category_sizes, width=width)
        self.numbers = nn.Linear(num_numbers, width, bias=False) if num_numbers else None
        self.text = nn.Linear(text_width, width, bias=False) if text_width else None
        self.id_dropout = id_dropout

    def forward(self, item_id: Tensor, categories: Tensor, numbers: Tensor, text_embedding: Tensor) -> Tensor:
        """[N], [N, Ci, M], [N, Fi], [N, E] -> [N, D]."""
        if self.training and self.id_dropout > 0.0:
            dropped = torch.rand(item_id.shape, device=item_id.device) < self.id_dropout
            item_id = torch.where(dropped & (item_id != PADDING), UNKNOWN, item_id)
        embedding = self.id_embedding(item_id) + self.categories(categories)
        if self.numbers is not None:
            embedding = embedding + self.numbers(numbers)
        if self.text is not None:
            embedding = embedding + self.text(text_embedding)
        result: Tensor = embedding
        return result


class CausalBlock(nn.Module):
    """Pre-norm transformer block with causal self-attention."""

    def __init__(self, *, width: int, num_heads: int, feed_forward_factor: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        # No dropout inside: drawing its mask took a quarter of a step on the CPU and changed nothing (docs/log.md).
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward_factor * width), nn.GELU(), nn.Linear(feed_forward_factor * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D], [B, 1, L, L] true where a position may look -> [B, L, D]."""
        batch, length, width = states.shape
        heads = self.query_key_value(self.attention_norm(states))
        query, key, value = (
            part.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)
            for part in heads.chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        states = states + self.dropout(self.attention_out(attended))
        states = states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        return states


class CausalQueryTower(nn.Module):
    """SASRec-form transformer over the history's item embeddings, plus the query's categories, numbers and text.

    Source: Kang and McAuley, ICDM 2018, "Self-attentive sequential recommendation".
    """

    def __init__(
        self,
        *,
        category_sizes: tuple[int, ...],
        num_numbers: int,
        text_width: int,
        history_length: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        feed_forward_factor: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(history_length, width) * 0.02)
        self.blocks = nn.ModuleList(
            CausalBlock(width=width, num_heads=num_heads, feed_forward_factor=feed_forward_factor, dropout=dropout)
            for _ in range(num_blocks)
        )
        self.categories = CategoryEmbedding(sizes=category_sizes, width=width)
        self.numbers = nn.Linear(num_numbers, width, bias=False) if num_numbers else None
        self.text = nn.Linear(text_width, width, bias=False) if text_width else None
        self.input_dropout = nn.Dropout(dropout)
        self.output_norm = nn.LayerNorm(width)

    def states(
        self, history: Tensor, history_mask: Tensor, categories: Tensor, numbers: Tensor, text_embedding: Tensor
    ) -> Tensor:
        """Query embedding after each position, each from that position and earlier ones: [B, L, D]."""
        length = history.shape[1]
        context = self.categories(categories.unsqueeze(-1))  # [B, D]
        if self.numbers is not None:
            context = context + self.numbers(numbers)
        if self.text is not None:
            context = context + self.text(text_embedding)
        # Padding has no position: the state before a first event is the same wherever the window begins, so what a
        # query without history is answered from is what every query's first event has taught.
        states = (history + self.positions) * history_mask.unsqueeze(-1) + context.unsqueeze(1)
        states = self.input_dropout(states)
        place = torch.arange(length, device=history.device)
        causal = place[:, None] >= place[None, :]
        # A padding position looks at itself, so that no row of the softmax is empty; nobody looks at padding.
        mask = (causal & history_mask[:, None, :]) | (place[:, None] == place[None, :])  # [B, L, L]
        for block in self.blocks:
            states = block(states, mask.unsqueeze(1))
        normalised: Tensor = self.output_norm(states)
        return normalised

    def forward(
        self, history: Tensor, history_mask: Tensor, categories: Tensor, numbers: Tensor, text_embedding: Tensor
    ) -> Tensor:
        """Query embedding after the whole history: [B, L, D], [B, L], [B, Cq], [B, Fq], [B, E] -> [B, D]."""
        return self.states(history, history_mask, categories, numbers, text_embedding)[:, -1]
