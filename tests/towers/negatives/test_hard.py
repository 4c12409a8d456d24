import numpy as np
import pytest
import torch

from towers.errors import UnfitPieces
from towers.negatives.frequency import Uniform
from towers.negatives.hard import Hard, HardNegatives
from towers.negatives.items import QueryRows, TrainingItems

SHARED = Uniform(num_negatives=4)
# Rows 2 to 9, of which row 9 is never compared. Query 0 had rows 2 and 3, query 1 nothing, query 2 all.
COUNTS = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0])
OWN = QueryRows(offsets=np.array([0, 2, 2, 9]), rows=np.array([3, 2, *range(2, 9)]))
ITEMS = TrainingItems(counts=COUNTS, recommendable=COUNTS > 0, of_queries=OWN)
# One coordinate: a state of 1 ranks row 9 first, then 8, 7 ... 2; a state of -1 the other way round.
CATALOGUE = torch.arange(10.0).unsqueeze(1)


def mined(
    states: list[float], *, windows: list[int], queries: list[int], num_hard: int, skipped: int
) -> list[list[int]]:
    hard = HardNegatives(Hard(shared=SHARED, num_hard=num_hard, skipped=skipped, every_n_steps=1), ITEMS)
    hard.catalogue = CATALOGUE
    rows: list[list[int]] = hard(
        torch.tensor(states).unsqueeze(1), OWN.of(torch.tensor(queries)), windows=torch.tensor(windows)
    ).tolist()
    return rows


def test_the_best_items_come_after_the_skipped_ones_and_none_that_cannot_be_compared():
    assert mined([1.0], windows=[0], queries=[1], num_hard=3, skipped=0) == [[8, 7, 6]]
    assert mined([1.0], windows=[0], queries=[1], num_hard=3, skipped=2) == [[6, 5, 4]]


def test_what_the_query_had_in_training_is_spared_and_takes_no_rank():
    # From the other end: 2 and 3 are query 0's own, so the one that is skipped is 4.
    assert mined([-1.0], windows=[0], queries=[0], num_hard=2, skipped=1) == [[5, 6]]
    assert mined([-1.0], windows=[0], queries=[1], num_hard=2, skipped=1) == [[3, 4]]


def test_each_position_is_mined_for_itself_with_the_events_of_its_own_window():
    found = mined([1.0, -1.0, -1.0], windows=[1, 0, 1], queries=[0, 1], num_hard=2, skipped=0)
    assert found == [[8, 7], [4, 5], [2, 3]]


def test_where_nothing_is_left_none_is_mined():
    assert mined([1.0, 1.0], windows=[0, 0], queries=[2], num_hard=2, skipped=1) == [[0, 0], [0, 0]]


def test_in_parts_the_same_is_mined(monkeypatch):
    states, windows = [1.0, -1.0, 1.0, -1.0, 1.0], [0, 1, 1, 0, 0]
    whole = mined(states, windows=windows, queries=[0, 1], num_hard=2, skipped=1)
    monkeypatch.setattr("towers.negatives.hard.MAX_LOGITS", 25)  # two positions of ten rows
    assert mined(states, windows=windows, queries=[0, 1], num_hard=2, skipped=1) == whole


def test_the_catalogue_is_due_in_an_epochs_first_step_and_every_n_after_it():
    hard = HardNegatives(Hard(shared=SHARED, num_hard=1, skipped=0, every_n_steps=3), ITEMS)
    assert hard.is_due(1)  # it was never embedded
    hard.catalogue = CATALOGUE
    assert [step for step in range(8) if hard.is_due(step)] == [0, 3, 6]


def test_fewer_items_than_are_skipped_and_mined_are_refused():
    with pytest.raises(UnfitPieces, match=r"skipped=5 and negatives.num_hard=2 need more than 7 items, and"):
        HardNegatives(Hard(shared=SHARED, num_hard=2, skipped=5, every_n_steps=1), ITEMS)


def test_without_the_queries_own_events_nothing_is_mined():
    items = TrainingItems(counts=COUNTS, recommendable=COUNTS > 0)
    with pytest.raises(UnfitPieces, match="mined negatives need to know what each query had"):
        HardNegatives(Hard(shared=SHARED, num_hard=1, skipped=0, every_n_steps=1), items)


@pytest.mark.parametrize(("num_hard", "skipped", "every_n_steps"), [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_settings_outside_their_range_are_refused(num_hard, skipped, every_n_steps):
    with pytest.raises(ValueError, match=f"got {num_hard}, {skipped} and {every_n_steps}"):
        Hard(shared=SHARED, num_hard=num_hard, skipped=skipped, every_n_steps=every_n_steps)


def test_mined_negatives_beside_mined_ones_are_refused():
    inner = Hard(shared=SHARED, num_hard=1, skipped=0, every_n_steps=1)
    with pytest.raises(ValueError, match=r"negatives\.shared is itself mined"):
        Hard(shared=inner, num_hard=1, skipped=0, every_n_steps=1)


def test_what_is_no_item_of_the_catalogue_is_compared_with_nothing():
    items = TrainingItems(counts=np.array([0, 5, 1, 0]), recommendable=np.array([False, False, False, True]))
    assert items.compared.tolist() == [2, 3]


def test_the_rows_of_queries_are_padded_to_the_longest_that_is_asked_for():
    assert OWN.of(torch.tensor([0, 1])).tolist() == [[3, 2], [0, 0]]
    assert OWN.of(torch.tensor([1])).shape == (1, 0)
