import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from towers.errors import UnfitPieces
from towers.losses.bpr import Bpr
from towers.losses.gbce import Gbce
from towers.losses.softmax import Softmax
from towers.negatives.frequency import Uniform
from towers.negatives.hard import Hard
from towers.negatives.items import QueryRows, TrainingItems
from towers.negatives.targets import InBatch
from towers.objective import Objective, SampledObjective, objective_of
from towers.training_batch import BatchMaker, TrainingBatch

# Rows 0 and 1 are no items; rows 2 to 6 are compared, row 7 is not.
COUNTS = np.array([0, 0, 2, 1, 1, 2, 0, 0])
ITEMS = TrainingItems(
    counts=COUNTS,
    recommendable=np.array([False, False, True, True, True, True, True, False]),
    of_queries=QueryRows(offsets=np.array([0, 3, 6]), rows=np.array([2, 3, 5, 4, 5, 2])),
)
HISTORY = torch.tensor([[0, 2, 3], [0, 4, 7]])
TARGETS = torch.tensor([[2, 3, 5], [4, 5, 2]])
P, N = 6, 5
EVEN, SAMPLED = Uniform(num_negatives=7), Softmax(full_up_to=0)


class Table(nn.Module):
    """Towers as far as an objective knows them: free embeddings of 8 rows, of width 4."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        self.item_tower = nn.Dropout()
        self.item_table = nn.Parameter(values)

    def embed_items(self, rows: Tensor) -> Tensor:
        return self.item_table[rows]

    def embed_catalogue(self) -> Tensor:
        return self.embed_items(torch.arange(8))


def losses_of(
    objective: Objective, *, step: int = 0, max_logits: int | None = None
) -> tuple[Tensor, Tensor, Tensor, TrainingBatch]:
    """[P] losses, their gradient by the table, [P, 8] logits of all rows, and the batch."""
    if max_logits is not None:
        objective.max_logits = max_logits
    make = BatchMaker(num_rows=8, always=objective.always, of_queries=ITEMS.of_queries)
    batch = make([HISTORY, TARGETS, torch.tensor([0, 1])])
    table: Any = Table()
    states = torch.randn(P, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    losses = objective(table, batch, states=states, embeddings=table.embed_items(batch.rows), step=step)
    (gradient,) = torch.autograd.grad(losses.sum(), table.item_table)
    return losses.detach(), gradient, (states @ table.item_table.T).detach(), batch


def test_over_all_items_it_is_cross_entropy_among_the_compared_ones():
    objective = objective_of(loss=Softmax(full_up_to=N), negatives=EVEN, items=ITEMS)
    losses, _, logits, batch = losses_of(objective)
    assert_close(losses, functional.cross_entropy(logits[:, 2:7], batch.target_rows - 2, reduction="none"))


def test_one_item_more_than_full_up_to_and_negatives_are_sampled():
    objective = objective_of(loss=Softmax(full_up_to=N - 1), negatives=EVEN, items=ITEMS)
    assert isinstance(objective, SampledObjective)


def test_every_item_drawn_once_gives_the_full_softmax_and_its_gradient():
    drawn = Uniform(num_negatives=N, replacement=False)
    sampled, of_sampled, _, _ = losses_of(objective_of(loss=SAMPLED, negatives=drawn, items=ITEMS))
    full, of_full, _, _ = losses_of(objective_of(loss=Softmax(full_up_to=None), negatives=EVEN, items=ITEMS))
    assert_close(sampled, full)
    assert_close(of_sampled, of_full)


def test_in_batch_negatives_are_the_other_positions_targets():
    losses, _, logits, batch = losses_of(objective_of(loss=SAMPLED, negatives=InBatch(), items=ITEMS))
    by_hand = []
    for position, target in enumerate(batch.target_rows.tolist()):
        # six positions, and shares of 2/6, 1/6, 1/6 and 2/6 of the events
        others = [math.exp(logits[position, row]) / COUNTS[row] for row in batch.target_rows.tolist() if row != target]
        by_hand.append(math.log(math.exp(logits[position, target]) + sum(others)) - logits[position, target].item())
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_mined_negatives_stand_beside_the_shared_ones_and_count_once():
    even = Uniform(num_negatives=N, replacement=False)
    settings = Hard(shared=even, num_hard=2, skipped=1, every_n_steps=1)
    losses, _, logits, batch = losses_of(objective_of(loss=SAMPLED, negatives=settings, items=ITEMS))
    for position, target in enumerate(batch.target_rows.tolist()):
        own = set(ITEMS.of_queries.of(torch.tensor([position // 3]))[0].tolist()) if ITEMS.of_queries else set()
        left = [row for row in logits[position].argsort(descending=True).tolist() if row not in own and 2 <= row < 7]
        weights = logits[position].exp()
        total = weights[2:7].sum() + weights[left[1:3]].sum()  # the best that is left is skipped
        assert losses[position].item() == pytest.approx(math.log(total / weights[target]), rel=1e-5)


def test_between_two_looks_at_the_catalogue_mining_goes_by_the_last():
    objective = objective_of(
        loss=SAMPLED, negatives=Hard(shared=EVEN, num_hard=1, skipped=0, every_n_steps=2), items=ITEMS
    )
    assert isinstance(objective, SampledObjective)
    assert objective.hard is not None
    losses_of(objective, step=0)
    objective.hard.catalogue = -objective.hard.catalogue  # type: ignore[operator]
    marked = objective.hard.catalogue.clone()
    losses_of(objective, step=1)
    assert_close(objective.hard.catalogue, marked)
    losses_of(objective, step=2)
    assert_close(objective.hard.catalogue, -marked)


@pytest.mark.parametrize(
    ("loss", "negatives"),
    [
        (Softmax(full_up_to=None), EVEN),
        (SAMPLED, EVEN),
        (SAMPLED, Hard(shared=EVEN, num_hard=2, skipped=0, every_n_steps=1)),
        (Gbce(calibration=0.75), EVEN),
        (Bpr(), InBatch()),
    ],
)
def test_in_chunks_of_positions_nothing_changes(loss, negatives):
    whole, of_whole, _, _ = losses_of(objective_of(loss=loss, negatives=negatives, items=ITEMS))
    parts, of_parts, _, _ = losses_of(objective_of(loss=loss, negatives=negatives, items=ITEMS), max_logits=20)
    assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert_close(of_parts, of_whole, atol=1e-5, rtol=1e-5)


class Prefix(Table):
    """The same embeddings cut to their first coordinates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def embed_items(self, rows: Tensor) -> Tensor:
        return super().embed_items(rows)[:, : self.width]


@pytest.mark.parametrize(
    ("loss", "negatives"),
    [
        (Softmax(full_up_to=None), EVEN),
        (SAMPLED, EVEN),
        (Gbce(calibration=0.75), EVEN),
    ],
)
def test_prefixes_are_trained_as_embeddings_of_their_own(loss, negatives):
    states = torch.randn(P, 4, generator=torch.Generator().manual_seed(1))

    def losses(width: int, prefix_widths: tuple[int, ...]) -> Tensor:
        objective = objective_of(loss=loss, negatives=negatives, items=ITEMS, prefix_widths=prefix_widths)
        table: Any = Prefix(width)
        batch = BatchMaker(num_rows=8, always=objective.always, of_queries=ITEMS.of_queries)(
            [HISTORY, TARGETS, torch.tensor([0, 1])]
        )
        torch.manual_seed(2)
        embeddings = table.embed_items(batch.rows)
        return objective(table, batch, states=states[:, :width], embeddings=embeddings, step=0)

    assert_close(losses(4, (2,)), (losses(2, ()) + losses(4, ())) / 2)


def test_mined_negatives_are_compared_at_every_width_too():
    settings = Hard(shared=Uniform(num_negatives=N, replacement=False), num_hard=2, skipped=0, every_n_steps=1)
    whole, _, logits, batch = losses_of(objective_of(loss=SAMPLED, negatives=settings, items=ITEMS, prefix_widths=[2]))
    alone, _, _, _ = losses_of(objective_of(loss=SAMPLED, negatives=settings, items=ITEMS))
    states, table = torch.randn(P, 4, generator=torch.Generator().manual_seed(1)), Table().item_table.detach()
    first = states[:, :2] @ table[:, :2].T  # [P, 8]
    for position, target in enumerate(batch.target_rows.tolist()):
        own = set(ITEMS.of_queries.of(torch.tensor([position // 3]))[0].tolist()) if ITEMS.of_queries else set()
        mined = sorted((row for row in range(2, 7) if row not in own), key=lambda row: -logits[position, row])[:2]
        competing = [*(row for row in range(2, 7) if row != target), *mined]
        odds = sum(math.exp(first[position, row]) for row in competing)
        of_first = math.log(math.exp(first[position, target]) + odds) - first[position, target]
        assert whole[position].item() == pytest.approx((alone[position].item() + of_first.item()) / 2, rel=1e-5)


def test_an_objective_says_which_items_a_target_competes_with():
    full = objective_of(loss=Softmax(full_up_to=20_000), negatives=EVEN, items=ITEMS)
    assert full.summary == "a target competes with all 5 items; no negatives are drawn"
    sampled = objective_of(loss=SAMPLED, negatives=EVEN, items=ITEMS)
    assert sampled.summary == "a target competes with negatives drawn from 5 items"


HARD = Hard(shared=EVEN, num_hard=1, skipped=1, every_n_steps=1)


@pytest.mark.parametrize(
    ("loss", "negatives", "message"),
    [
        (Softmax(full_up_to=None), HARD, "the full softmax has all 5 items as negatives: set loss=sampled_softmax"),
        (Gbce(calibration=0.5), HARD, "Gbce corrects for how negatives are drawn, and mined ones are not drawn: set"),
        (Softmax(full_up_to=4, label_smoothing=0.1), EVEN, "label_smoothing=0.1 needs the full softmax, and 5 items"),
        (SAMPLED, Uniform(num_negatives=6, replacement=False), "cannot be drawn without replacement from 5 items"),
        (SAMPLED, Hard(shared=EVEN, num_hard=2, skipped=3, every_n_steps=1), "need more than 5 items, and there are 5"),
    ],
)
def test_pieces_that_do_not_fit_are_refused_with_what_would(loss, negatives, message):
    with pytest.raises(UnfitPieces, match=message):
        objective_of(loss=loss, negatives=negatives, items=ITEMS)
