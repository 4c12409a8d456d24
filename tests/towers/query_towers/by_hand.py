"""Query towers of every kind, with weights far from their small initial ones, and queries to ask them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from features.vocab import FIRST, NumberScale
from towers.query_towers.causal import CausalQueryTower
from towers.query_towers.context import QueryContext
from towers.query_towers.gated import GatedQueryTower
from towers.query_towers.gru import GruQueryTower
from towers.query_towers.history import HistoryEncoding
from towers.query_towers.mean import MeanQueryTower
from towers.query_towers.protocol import QueryTower

LENGTH, WIDTH, TEXT_WIDTH, NUM_KINDS = 6, 8, 3, 4
VARIANTS: dict[str, Callable[..., QueryTower]] = {
    "causal": CausalQueryTower,
    "gated": GatedQueryTower,
    "gru": partial(GruQueryTower, num_layers=2),
    "mean": MeanQueryTower,
}


def stir(module: nn.Module, *, seed: int, by: float = 0.3) -> None:
    """Move weights away from where almost nothing depends on anything; padding stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)
        for table in module.modules():
            if isinstance(table, nn.Embedding):
                table.weight[0] = 0.0


def query_tower(
    variant: str,
    *,
    dropout: float = 0.0,
    text_width: int = TEXT_WIDTH,
    num_categories: int = 2,
    length: int = LENGTH,
    positions: bool = True,
) -> QueryTower:
    """A tower that reads everything of a history."""
    torch.manual_seed(0)
    tower = VARIANTS[variant](
        history=HistoryEncoding(
            history_length=length,
            num_event_kinds=NUM_KINDS,
            value_scale=NumberScale(mean=3.0, deviation=2.0),
            width=WIDTH,
            positions=positions,
            values=True,
        ),
        context=QueryContext(category_sizes=(4,) * num_categories, num_numbers=2, text_width=text_width, width=WIDTH),
        width=WIDTH,
        dropout=dropout,
    )
    assert isinstance(tower, nn.Module)
    stir(tower, seed=1)
    tower.eval()
    return tower


def queries(seed: int, *, lengths: list[int]) -> QueryTowerInputs[Tensor]:
    """Queries with histories of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    num, shape = len(lengths), (len(lengths), LENGTH)
    mask = torch.arange(LENGTH) >= LENGTH - torch.tensor(lengths).unsqueeze(1)
    return QueryTowerInputs(
        history_embeddings=torch.randn(*shape, WIDTH, generator=generator) * mask.unsqueeze(-1),
        history_mask=mask,
        history_events=torch.randint(FIRST, NUM_KINDS, shape, generator=generator) * mask,
        history_values=torch.randn(shape, generator=generator) * mask,
        history_gap_days=10 ** (torch.rand(shape, generator=generator) * 7 - 5) * mask,  # a second to 100 days
        query_categories=torch.randint(0, 3, (num, 2), generator=generator),
        query_numbers=torch.randn(num, 2, generator=generator),
        query_text=torch.randn(num, TEXT_WIDTH, generator=generator),
    )


def with_other_events(inputs: QueryTowerInputs[Tensor], at: Tensor, *, seed: int) -> QueryTowerInputs[Tensor]:
    """The same queries with everything of the events at these places [B, L] different, gaps included."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(inputs.history_embeddings.shape, generator=generator) * 10
    return replace(
        inputs,
        history_embeddings=torch.where(at.unsqueeze(-1), noise, inputs.history_embeddings),
        history_events=torch.where(at, NUM_KINDS + 1 - inputs.history_events.clamp(min=FIRST), inputs.history_events),
        history_values=torch.where(at, inputs.history_values + 3.0, inputs.history_values),
        history_gap_days=torch.where(at, inputs.history_gap_days * 1000 + 1.0, inputs.history_gap_days),
    )
