"""What every query tower must do, whatever is inside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from features.spec import DAY_MS
from features.tower_inputs import QueryTowerInputs, read_as_encoded
from features.transforms import QueryFeatures
from tests.features.by_hand import HISTORY_LENGTH, NUM_ROWS, a_query, encoded
from tests.towers.query_towers.by_hand import (
    LENGTH,
    TEXT_WIDTH,
    VARIANTS,
    WIDTH,
    queries,
    query_tower,
    with_other_events,
)
from towers.query_towers.protocol import QueryTower

TOWERS = {variant: query_tower(variant) for variant in VARIANTS}
seeds = st.integers(0, 2**31)
every_tower = pytest.mark.parametrize("variant", VARIANTS)


def one_of(inputs: QueryTowerInputs[Tensor], row: int) -> QueryTowerInputs[Tensor]:
    return QueryTowerInputs(**{name: array[row : row + 1] for name, array in inputs.by_name.items()})


@every_tower
@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(0, LENGTH), st.integers(1, LENGTH - 1))
def test_a_later_event_changes_no_earlier_state(variant, seed, length, place):
    tower, inputs = TOWERS[variant], queries(seed, lengths=[length])
    changed = with_other_events(inputs, torch.arange(LENGTH).unsqueeze(0) >= place, seed=seed + 1)
    before, after = tower.states(inputs), tower.states(changed)
    assert_close(after[:, :place], before[:, :place], atol=1e-6, rtol=1e-6)
    if inputs.history_mask[0, place]:
        assert not torch.allclose(after[:, place], before[:, place], atol=1e-3)


@every_tower
@pytest.mark.parametrize("place", [0, 3, LENGTH - 1])
def test_when_it_is_asked_changes_a_state_and_what_follows(variant, place):
    tower, inputs = TOWERS[variant], queries(0, lengths=[LENGTH])
    later = inputs.history_gap_days.clone()
    later[:, place] = 3000.0
    before, after = tower.states(inputs), tower.states(replace(inputs, history_gap_days=later))
    assert_close(after[:, :place], before[:, :place])
    assert not torch.isclose(after[:, place:], before[:, place:], atol=1e-4).all(dim=2).any()


ITEM_EMBEDDINGS = torch.randn(NUM_ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
# An event keeps its place in a window, while a served history ends in the last place: without positions both are alike.
UNPLACED = {
    variant: query_tower(variant, length=HISTORY_LENGTH, positions=False, num_categories=1) for variant in VARIANTS
}


def states_of(tower: QueryTower, query: QueryFeatures) -> Tensor:
    """[L, D] of one query as it is encoded."""
    inputs = encoded(query)
    arrays = {name: torch.from_numpy(array) for name, array in read_as_encoded(inputs).items()}
    arrays["query_numbers"] = arrays["query_numbers"].expand(-1, 2)
    text = torch.ones(1, TEXT_WIDTH)
    history = ITEM_EMBEDDINGS[torch.from_numpy(inputs.history_rows)]
    return tower.states(QueryTowerInputs(history_embeddings=history, **arrays, query_text=text))[0]


@every_tower
@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["view", "purchase"]),
            st.sampled_from([0, 999, 5_000, 3_600_000, 40 * DAY_MS]),
        ),
        min_size=2,
        max_size=HISTORY_LENGTH,
    )
)
def test_a_training_position_knows_what_a_request_at_the_instant_of_its_target_knows(variant, events):
    # Whatever later events are and whenever they happen: only that the next one happens is known, and when.
    items, kinds, pauses_ms = (list(column) for column in zip(*events, strict=True))
    at_ms = np.cumsum(pauses_ms).tolist()
    tower = UNPLACED[variant]
    history = {"events": kinds, "at_ms": [DAY_MS + instant for instant in at_ms]}
    window = states_of(tower, a_query(items, **history, requested_at_ms=history["at_ms"][-1] + 5_000))
    for known in range(1, len(items)):
        cut = {name: column[:known] for name, column in history.items()}
        served = states_of(tower, a_query(items[:known], **cut, requested_at_ms=history["at_ms"][known]))
        assert_close(window[HISTORY_LENGTH - len(items) + known - 1], served[-1], atol=1e-4, rtol=1e-4)


@every_tower
@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(0, LENGTH))
def test_what_stands_in_the_padding_does_not_matter(variant, seed, length):
    tower, inputs = TOWERS[variant], queries(seed, lengths=[length])
    filled = with_other_events(inputs, ~inputs.history_mask, seed=seed + 1)
    assert_close(tower(filled), tower(inputs))


@every_tower
def test_a_history_is_the_same_behind_more_padding(variant):
    # Two more places: whoever looked at padding, or were moved on by it, would see two more of it.
    tower, longer, inputs = TOWERS[variant], query_tower(variant), queries(0, lengths=[2, 0, 5])
    longer.history.positions = nn.Parameter(torch.cat([torch.ones(2, WIDTH), tower.history.positions.detach()]))
    padded = {
        name: torch.cat([torch.zeros_like(array[:, :2]), array], dim=1)
        for name, array in inputs.by_name.items()
        if name.startswith("history_")
    }
    assert_close(longer.states(replace(inputs, **padded))[:, 2:], tower.states(inputs), atol=1e-5, rtol=1e-5)


@every_tower
def test_the_state_before_a_first_event_is_what_a_query_without_history_is_answered_from(variant):
    tower, inputs = TOWERS[variant], queries(0, lengths=[2])
    before = tower.states(inputs)[:, : LENGTH - 2]
    empty = tower(replace(inputs, history_mask=torch.zeros_like(inputs.history_mask)))
    assert_close(before, empty.unsqueeze(1).expand_as(before))


@every_tower
@settings(deadline=None, max_examples=20)
@given(seeds, st.lists(st.integers(0, LENGTH), min_size=1, max_size=5))
def test_a_batch_equals_its_rows_one_at_a_time(variant, seed, lengths):
    tower, batch = TOWERS[variant], queries(seed, lengths=lengths)
    together = tower(batch)
    for row in range(len(lengths)):
        assert_close(tower(one_of(batch, row))[0], together[row], atol=1e-5, rtol=1e-5)


@every_tower
def test_a_query_is_its_last_state(variant):
    tower, batch = TOWERS[variant], queries(0, lengths=[0, 3, LENGTH])
    assert_close(tower(batch), tower.states(batch)[:, -1])
    assert tower.states(batch).shape == (3, LENGTH, WIDTH)


@every_tower
def test_an_empty_history_gives_an_embedding_from_the_attributes_and_finite_gradients(variant):
    tower, inputs = query_tower(variant), queries(0, lengths=[0, 0])
    numbers, text = (array[:1].expand(2, -1) for array in (inputs.query_numbers, inputs.query_text))
    asked = replace(inputs, query_categories=torch.tensor([[2, 2], [3, 2]]), query_numbers=numbers, query_text=text)
    embeddings = tower(asked)
    embeddings.square().sum().backward()
    assert embeddings.isfinite().all()
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert all(parameter.grad.isfinite().all() for parameter in tower.parameters() if parameter.grad is not None)


@every_tower
def test_queries_without_history_are_told_apart_by_what_they_say(variant):
    tower, inputs = TOWERS[variant], queries(0, lengths=[0, 0])
    categories, numbers = (array[:1].expand(2, -1) for array in (inputs.query_categories, inputs.query_numbers))
    same = replace(inputs, query_categories=categories, query_numbers=numbers)
    found = tower(same)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert_close(*tower(replace(same, query_text=inputs.query_text[:1].expand(2, -1))))


@every_tower
def test_a_tower_without_text_takes_an_embedding_of_no_width(variant):
    tower, inputs = query_tower(variant, text_width=0), queries(0, lengths=[3])
    assert tower.context.text is None
    assert tower(replace(inputs, query_text=torch.zeros(1, 0))).shape == (1, WIDTH)


@every_tower
def test_the_order_of_a_history_matters_to_all_towers_but_the_mean(variant):
    tower, inputs = TOWERS[variant], queries(0, lengths=[LENGTH])
    swapped = replace(inputs, history_embeddings=inputs.history_embeddings[:, [1, 0, *range(2, LENGTH)]])
    assert torch.allclose(tower(inputs), tower(swapped), atol=1e-3) == (variant == "mean")


@every_tower
def test_dropout_works_in_training_only(variant):
    tower, batch = query_tower(variant, dropout=0.5), queries(0, lengths=[LENGTH])
    assert torch.equal(tower(batch), tower(batch))
    tower.train()
    assert not torch.allclose(tower(batch), tower(batch))


@every_tower
def test_every_weight_learns(variant):
    tower = query_tower(variant, dropout=0.2)
    tower.train()
    torch.manual_seed(0)
    (tower.states(queries(0, lengths=[0, 3, LENGTH])) ** 3).sum().backward()
    without = [name for name, parameter in tower.named_parameters() if not parameter.grad.any()]
    assert without == []
