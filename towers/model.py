"""The two towers together, over one item table.

Owns how rows of the item table become embeddings on both sides. The towers share the item tower: what a query has
seen and what it may be shown are embedded alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.spec import FeatureSpec
from features.transforms import ItemInputs
from features.vocab import EVENT, HISTORY_VALUE, NumberScale, Vocabularies
from towers.errors import UnfitPieces
from towers.item_tower import ItemTower
from towers.query_towers.causal import CausalQueryTower
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding
from towers.query_towers.protocol import QueryTower


@dataclass(frozen=True)
class TowerSizes:
    """What the data says about the shapes of the towers, and about the scale of events' values."""

    num_ids: int
    item_category_sizes: tuple[int, ...]
    num_item_numbers: int
    text_width: int
    query_category_sizes: tuple[int, ...]
    num_query_numbers: int
    query_text_width: int
    history_length: int
    num_event_kinds: int
    value_scale: NumberScale

    @classmethod
    def of(cls, spec: FeatureSpec, vocabularies: Vocabularies, *, text_width: int) -> "TowerSizes":
        """Sizes for a spec and what was fitted for it; `text_width` is that of the text embeddings on both sides."""

        def sizes(names: tuple[str, ...]) -> tuple[int, ...]:
            return tuple(len(vocabularies.categories[name]) for name in names)

        return cls(
            num_ids=len(vocabularies.categories["item_id"]),
            item_category_sizes=sizes(spec.names("item", "category")),
            num_item_numbers=len(spec.names("item", "number", "column")),
            text_width=text_width,
            query_category_sizes=sizes(spec.names("query", "category")),
            num_query_numbers=len(spec.names("query", "number", "column")),
            query_text_width=text_width if spec.text.query_tokens else 0,
            history_length=spec.history_length,
            num_event_kinds=len(vocabularies.categories[EVENT]),
            value_scale=vocabularies.numbers[HISTORY_VALUE],
        )


class ItemTable(nn.Module):
    """The catalogue's arrays as buffers, so that they move with the module. R rows; text embeddings [R, E]."""

    item_id: Tensor
    categories: Tensor
    numbers: Tensor
    text_embedding: Tensor

    def __init__(self, *, items: ItemInputs, text_embeddings: NDArray[np.float32]) -> None:
        super().__init__()
        for name, array in (
            ("item_id", items.item_id),
            ("categories", items.categories),
            ("numbers", items.numbers),
            ("text_embedding", text_embeddings),
        ):
            self.register_buffer(name, torch.tensor(array), persistent=False)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Item tower inputs of the given rows [N]."""
        return self.item_id[rows], self.categories[rows], self.numbers[rows], self.text_embedding[rows]

    def __len__(self) -> int:
        return int(self.item_id.shape[0])


class TwoTower(nn.Module):
    """Query and item embeddings whose inner product is the retrieval score.

    Args:
        query_tower: embeds queries.
        item_tower: embeds items.
        item_table: of the catalogue.
        prefix_widths: numbers of first coordinates that are trained to do as embeddings by themselves.
    """

    def __init__(
        self,
        *,
        query_tower: QueryTower,
        item_tower: ItemTower,
        item_table: ItemTable,
        prefix_widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.prefix_widths = tuple(prefix_widths)
        self.query_tower = query_tower
        self.item_tower = item_tower
        self.item_table = item_table

    def embed_items(self, rows: Tensor) -> Tensor:
        """[N] ItemRow -> [N, D]."""
        embeddings: Tensor = self.item_tower(*self.item_table(rows))
        return embeddings

    def embed_catalogue(self) -> Tensor:
        """Embeddings of all rows of the item table [R, D]."""
        return self.embed_items(torch.arange(len(self.item_table), device=self.item_table.item_id.device))


def build_two_tower(
    *,
    sizes: TowerSizes,
    item_table: ItemTable,
    width: int = 64,
    prefix_widths: Sequence[int] = (),
    id_dropout: float = 0.1,
    query_tower: Callable[..., QueryTower] = CausalQueryTower,
    history: Callable[..., HistoryEncoding] = HistoryEncoding,
) -> TwoTower:
    """A two-tower model for data of these sizes; conf/towers/*.yaml holds the other arguments.

    Args:
        sizes: of the data.
        item_table: the catalogue.
        width: D of both towers.
        prefix_widths: below D, so many first coordinates are trained to do as embeddings by themselves (Matryoshka).
        id_dropout: of the item tower.
        query_tower: makes one of what it reads of a history, what it reads of a query, and its width.
        history: makes what the query tower reads of a history.
    """
    if not all(0 < own < width for own in prefix_widths):
        raise UnfitPieces(
            f"towers.prefix_widths must lie between 1 and {width - 1}, below towers.width; got {list(prefix_widths)}"
        )
    model = TwoTower(
        query_tower=query_tower(
            history=history(
                history_length=sizes.history_length,
                num_event_kinds=sizes.num_event_kinds,
                value_scale=sizes.value_scale,
                width=width,
            ),
            context=QueryContext(
                category_sizes=sizes.query_category_sizes,
                num_numbers=sizes.num_query_numbers,
                text_width=sizes.query_text_width,
                width=width,
            ),
            width=width,
        ),
        item_tower=ItemTower(
            num_ids=sizes.num_ids,
            category_sizes=sizes.item_category_sizes,
            num_numbers=sizes.num_item_numbers,
            text_width=sizes.text_width,
            width=width,
            id_dropout=id_dropout,
        ),
        item_table=item_table,
        prefix_widths=prefix_widths,
    )
    query_text, item_text = model.query_tower.context.text, model.item_tower.text
    if query_text is not None and item_text is not None and query_text.weight.shape == item_text.weight.shape:
        _align(query_text, item_text)
    return model


def _align(query_text: nn.Linear, item_text: nn.Linear) -> None:
    """Begin with one orthogonal projection on both sides, which nearly keeps what the sentence encoder finds alike.

    From two independent projections the towers would have to learn anew that a text is like itself.
    """
    nn.init.orthogonal_(item_text.weight, gain=float(item_text.in_features / item_text.out_features) ** 0.5)
    with torch.no_grad():
        query_text.weight.copy_(item_text.weight)
