import numpy as np
import pytest
import torch
from torch import Tensor

from towers.negatives.items import QueryRows
from towers.training_batch import BatchMaker, TrainingBatch

# Two windows of three positions, of queries 1 and 0; the first has no target at its first position.
HISTORY = torch.tensor([[0, 7, 3], [5, 7, 7]])
TARGETS = torch.tensor([[0, 3, 9], [7, 7, 4]])
QUERIES = torch.tensor([1, 0])
OTHER = (torch.tensor([[1], [2]]), torch.tensor([[0.5], [0.25]]))


def made(always: list[int], of_queries: QueryRows | None = None) -> TrainingBatch:
    make = BatchMaker(num_rows=12, always=torch.tensor(always, dtype=torch.long), of_queries=of_queries)
    return make([HISTORY, *OTHER, TARGETS, QUERIES])


@pytest.mark.parametrize("always", [[], [3, 4, 8], [11], list(range(12))])
def test_places_lead_to_the_rows_of_histories_and_targets(always):
    batch = made(always)
    assert torch.equal(batch.rows[batch.history_places], HISTORY)
    assert torch.equal(batch.rows[batch.target_places], batch.target_rows)
    assert batch.rows[: len(always)].tolist() == always
    assert len(set(batch.rows.tolist())) == len(batch.rows)  # each row is embedded once
    assert set(batch.rows.tolist()) == {*always, 0, 3, 4, 5, 7, 9}


def test_positions_are_those_with_a_target():
    batch = made([])
    assert batch.positions.tolist() == [1, 2, 3, 4, 5]
    assert batch.target_rows.tolist() == [3, 9, 7, 7, 4]


def test_what_the_query_tower_reads_is_handed_on():
    batch = made([])
    assert torch.equal(batch.history_rows, HISTORY)
    assert [part.tolist() for part in batch.query] == [part.tolist() for part in OTHER]


def test_what_each_windows_query_had_comes_only_if_it_is_asked_for():
    had = QueryRows(offsets=np.array([0, 3, 4]), rows=np.array([5, 7, 4, 9]))
    assert made([], had).own_rows.tolist() == [[9, 0, 0], [5, 7, 4]]
    assert made([]).own_rows.shape == (2, 0)


def test_a_step_may_have_no_row_but_those_of_every_step():
    batch = made(list(range(12)))
    assert isinstance(batch.rows, Tensor)
    assert batch.rows.tolist() == list(range(12))
