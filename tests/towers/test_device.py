"""What a GPU must get right: a training step runs there, and gives what the CPU gives."""

from functools import partial

import numpy as np
import pytest
import torch

from features.tower_inputs import QueryTowerInputs
from features.transforms import ItemInputs
from features.vocab import PADDING, NumberScale
from towers.model import ItemTable, TowerSizes, TwoTower, build_two_tower
from towers.module import TowersModule
from towers.negatives import FrequencySampler
from towers.query_towers.causal import CausalQueryTower

NUM_ITEMS, LENGTH, WINDOWS = 30, 6, 8


def small_module() -> TowersModule:
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
    model: TwoTower = build_two_tower(
        sizes=sizes, item_table=table, width=8, id_dropout=0.0, query_tower=partial(CausalQueryTower, dropout=0.0)
    )
    counts = np.where(rows >= 2, 5, 0)
    module = TowersModule(
        model=model,
        negatives=FrequencySampler(num_negatives=16, exponent=0.5),
        item_counts=counts,
        recommendable=counts > 0,
        learning_rate=0.01,
        weight_decay=0.0,
        spec_hash="test",
    )
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]  # no trainer here
    return module


def batch(device: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(2, NUM_ITEMS, (WINDOWS, LENGTH), generator=generator)
    targets = torch.randint(2, NUM_ITEMS, (WINDOWS, LENGTH), generator=generator)
    categories = torch.randint(0, 4, (WINDOWS, 1), generator=generator)
    numbers, text = torch.zeros(WINDOWS, 1), torch.randn(WINDOWS, 3, generator=generator)
    mask, events = history != PADDING, torch.randint(0, 4, (WINDOWS, LENGTH), generator=generator)
    values, gap_days = (torch.rand(WINDOWS, LENGTH, generator=generator) for _ in range(2))
    parts = (history, mask, events, values, gap_days, categories, numbers, text, targets)
    return tuple(part.to(device) for part in parts)


def test_a_training_step_runs_without_data_on_the_meta_device() -> None:
    """Shapes and device placement alone: a tensor made on another device would be refused."""
    model = small_module().model.to("meta")
    history, *query, targets = (part.to("meta") for part in batch("cpu"))
    embeddings = model.embed_items(history.flatten()).view(*history.shape, -1)
    states = model.query_tower.states(QueryTowerInputs(embeddings, *query))
    loss = (states * model.embed_items(targets.flatten()).view_as(states)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.device.type == "meta" for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
def test_the_query_embedding_on_a_gpu_equals_the_cpu() -> None:
    module = small_module().eval()
    on_cpu, on_gpu = [], []
    for device, kept in (("cpu", on_cpu), ("cuda", on_gpu)):
        model = module.model.to(device)
        history, *query, _ = batch(device)
        embeddings = model.embed_catalogue()
        kept.append(model.query_tower(QueryTowerInputs(embeddings[history], *query)).detach().cpu())
    torch.testing.assert_close(on_gpu[0], on_cpu[0], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
def test_training_on_a_gpu_lowers_the_loss() -> None:
    module = small_module().to("cuda").train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch("cuda"), 0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
