"""What a query is, whatever its history: its categories, numbers and text.

Shapes: B queries, D embedding width.
"""

from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from towers.item_tower import CategoryEmbedding, number_projection


class QueryContext(nn.Module):
    """Sum of the embeddings of a query's attributes and of what it says."""

    def __init__(self, *, category_sizes: tuple[int, ...], num_numbers: int, text_width: int, width: int) -> None:
        super().__init__()
        self.categories = CategoryEmbedding(sizes=category_sizes, width=width)
        self.numbers = number_projection(num_numbers, width=width) if num_numbers else None
        self.text = nn.Linear(text_width, width, bias=False) if text_width else None

    def forward(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, D]."""
        embedding: Tensor = self.categories(inputs.query_categories.unsqueeze(-1))
        if self.numbers is not None:
            embedding = embedding + self.numbers(inputs.query_numbers)
        if self.text is not None:
            embedding = embedding + self.text(inputs.query_text)
        return embedding
