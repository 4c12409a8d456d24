"""A TowersModule of thirty items without a log, a trainer or a fixture: for another device or another process."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from features.transforms import ItemInputs
from features.vocab import PADDING, NumberScale
from towers.losses.loss import Loss
from towers.losses.softmax import Softmax
from towers.model import ItemTable, TowerSizes, build_two_tower
from towers.module import TowersModule
from towers.negatives.frequency import Frequency
from towers.negatives.items import QueryRows
from towers.negatives.sampler import NegativeSource
from towers.query_towers.causal import CausalQueryTower

NUM_ITEMS, LENGTH, WINDOWS = 30, 6, 8


class Unlogged(TowersModule):
    """Logs nowhere: there is no trainer."""

    def log(self, *args: object, **kwargs: object) -> None: ...


def small_module(*, loss: Loss | None = None, negatives: NegativeSource | None = None) -> TowersModule:
    torch.manual_seed(0)
    rows = np.arange(NUM_ITEMS)
    table = ItemTable(
        items=ItemInputs(
            item_id=rows,
            categories=(rows % 3).reshape(-1, 1, 1),
            numbers=np.ones((NUM_ITEMS, 1), dtype=np.float32),
            title_tokens=np.zeros((NUM_ITEMS, 1), dtype=np.int32),
            text_tokens=np.zeros((NUM_ITEMS, 1), dtype=np.int32),
        ),
        text_embeddings=np.ones((NUM_ITEMS, 4), dtype=np.float32),
    )
    sizes = TowerSizes(
        num_ids=NUM_ITEMS,
        item_category_sizes=(3,),
        num_item_numbers=1,
        text_width=4,
        query_category_sizes=(4,),
        num_query_numbers=1,
        query_text_width=3,
        history_length=LENGTH,
        num_event_kinds=4,
        value_scale=NumberScale(0.0, 1.0),
    )
    counts = np.where(rows >= 2, 5, 0)
    return Unlogged(
        model=build_two_tower(
            sizes=sizes, item_table=table, width=8, id_dropout=0.0, query_tower=partial(CausalQueryTower, dropout=0.0)
        ),
        loss=loss or Softmax(full_up_to=0),
        negatives=negatives or Frequency(num_negatives=16, exponent=0.5),
        item_counts=counts,
        recommendable=counts > 0,
        learning_rate=0.01,
        weight_decay=0.0,
        spec_hash="test",
        of_queries=QueryRows(offsets=2 * np.arange(WINDOWS + 1), rows=np.arange(2 * WINDOWS) + 2),
    )


def windows() -> list[Tensor]:
    """As a data module has them; the last ones have fewer targets."""
    generator = torch.Generator().manual_seed(1)
    history, targets = (torch.randint(2, NUM_ITEMS, (WINDOWS, LENGTH), generator=generator) for _ in range(2))
    targets[WINDOWS // 2 :, : LENGTH // 2] = 0
    categories = torch.randint(0, 4, (WINDOWS, 1), generator=generator)
    numbers, text = torch.zeros(WINDOWS, 1), torch.randn(WINDOWS, 3, generator=generator)
    mask, events = history != PADDING, torch.randint(0, 4, (WINDOWS, LENGTH), generator=generator)
    values, gap_days = (torch.rand(WINDOWS, LENGTH, generator=generator) for _ in range(2))
    query = (mask, events, values, gap_days, categories, numbers, text)
    return [history, *query, targets, torch.arange(WINDOWS)]
