import math

import numpy as np
import pytest
import torch

from towers.negatives.items import TrainingItems
from towers.negatives.sampler import Negatives, SharedNegatives
from towers.negatives.targets import InBatch, Queue

# padding, unknown, a recommendable item never chosen, then items of 5, 3 and 2 events
COUNTS = np.array([0, 0, 0, 5, 3, 2])
ITEMS = TrainingItems(counts=COUNTS, recommendable=np.arange(6) >= 2)


def step(shared: SharedNegatives, targets: list[int]) -> Negatives:
    negatives: Negatives = shared(torch.tensor(targets), capacity=len(targets))
    return negatives


def counts_of(negatives: Negatives) -> dict[int, float]:
    """Expected count by row."""
    return dict(zip(negatives.rows.tolist(), negatives.log_expected_count.exp().tolist(), strict=True))


def test_in_batch_negatives_are_the_targets_each_expected_by_its_share_of_the_events():
    negatives = step(SharedNegatives(InBatch().samplers(ITEMS)), [3, 4, 3, 5])
    assert negatives.rows.tolist() == [3, 4, 3, 5]
    # 4 positions times 5/10, 3/10 and 2/10
    assert counts_of(negatives) == pytest.approx({3: 2.0, 4: 1.2, 5: 0.8})


def test_over_many_batches_an_item_comes_as_often_as_expected():
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.from_numpy(COUNTS / COUNTS.sum())
    shared = SharedNegatives(InBatch().samplers(ITEMS))
    batches = [torch.multinomial(frequencies, 4, replacement=True, generator=generator).tolist() for _ in range(2000)]
    drawn = torch.cat([step(shared, batch).rows for batch in batches])
    # deviation of a mean count: sqrt(4 p (1 - p) / 2000) is at most 0.023
    np.testing.assert_allclose(torch.bincount(drawn, minlength=6) / 2000, [0, 0, 0, 2, 1.2, 0.8], atol=0.09)


def test_a_queue_holds_the_newest_targets_of_the_steps_before():
    shared = SharedNegatives(Queue(num_negatives=4).samplers(ITEMS))
    assert step(shared, [3, 4]).rows.tolist() == [0, 0, 0, 0]
    second = step(shared, [5, 3, 4])
    assert second.rows.tolist() == [3, 4, 0, 0]
    # two of its four places are filled: 2 times 5/10 and 3/10; what is not there counts nowhere
    assert counts_of(second) == pytest.approx({3: 1.0, 4: 0.6, 0: 1.0})
    third = step(shared, [3])
    assert third.rows.tolist() == [5, 3, 4, 3]
    assert counts_of(third) == pytest.approx({3: 2.0, 4: 1.2, 5: 0.8})
    assert step(shared, [3]).rows.tolist() == [3, 5, 3, 4]


def test_what_stands_for_no_target_takes_no_place_of_the_queue():
    shared = SharedNegatives(Queue(num_negatives=3).samplers(ITEMS))
    step(shared, [3, 0, 4, 0, 0])
    assert step(shared, [0, 5]).rows.tolist() == [3, 4, 0]
    assert step(shared, [0]).rows.tolist() == [5, 3, 4]


def test_a_queue_is_kept_in_checkpoints_and_nothing_else_is():
    shared = SharedNegatives([*Queue(num_negatives=2).samplers(ITEMS), *InBatch().samplers(ITEMS)])
    step(shared, [3, 4])
    kept = shared.state_dict()
    assert {name: rows.tolist() for name, rows in kept.items()} == {"samplers.0.newest": [3, 4]}
    other = SharedNegatives([*Queue(num_negatives=2).samplers(ITEMS), *InBatch().samplers(ITEMS)])
    other.load_state_dict(kept)
    assert step(other, [5]).rows.tolist() == [3, 4, 5]


def test_an_empty_queue_has_finite_logarithms():
    shared = SharedNegatives(Queue(num_negatives=2).samplers(ITEMS))
    assert step(shared, [3]).log_expected_count.tolist() == [math.log(1)] * 2


def test_a_queue_without_a_place_is_refused():
    with pytest.raises(ValueError, match="num_negatives must be at least 1; got 0"):
        Queue(num_negatives=0)
