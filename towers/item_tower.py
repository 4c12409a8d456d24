"""The item tower: an embedding of an item from its id, categories, numbers and text.

Owns layers only. Which item stands in which row, what is sampled and what is minimised live elsewhere.

Shapes: N items, D embedding width, Ci and Fi item categories and numbers, M values of a many-valued category, E width
of a text embedding (0 where there is no text).
"""

import torch
from torch import Tensor, nn

from features.vocab import PADDING, UNKNOWN


def embedding_table(num_ids: int, *, width: int) -> nn.Embedding:
    """Small random embeddings of VocabIds; that of padding is zero and stays so."""
    table = nn.Embedding(num_ids, width, padding_idx=PADDING)
    nn.init.normal_(table.weight, std=0.02)
    with torch.no_grad():
        table.weight[PADDING] = 0.0  # normal_ fills this row too, and no gradient would ever empty it
    return table


def number_projection(num_numbers: int, *, width: int) -> nn.Linear:
    """Of scaled numbers to embeddings, as small at first as those of ids.

    By torch's own beginning a single number would outshout the id tenfold: training then began at a loss of 33.7 on
    MovieLens-100K, where a guess has 7.4.
    """
    projection = nn.Linear(num_numbers, width, bias=False)
    nn.init.normal_(projection.weight, std=0.02)
    return projection


class CategoryEmbedding(nn.Module):
    """Sum over columns of the mean embedding of each column's values.

    Args:
        sizes: VocabIds of each column, padding and unknown included.
        width: embedding width D.
    """

    def __init__(self, *, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(embedding_table(size, width=width) for size in sizes)
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
        self.id_embedding = embedding_table(num_ids, width=width)
        self.categories = CategoryEmbedding(sizes=category_sizes, width=width)
        self.numbers = number_projection(num_numbers, width=width) if num_numbers else None
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
