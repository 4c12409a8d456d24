from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.vocab import FIRST, PADDING
from towers.data import TowerData, Windows, held_out, training_windows

LENGTH = 4


def a_world(build_world: Any, histories: dict[str, list[str]]) -> Any:
    """A world in which every event has an item of its own, so that an item tells which event it was.

    Args:
        build_world: the fixture.
        histories: the splits of each query's events in order of time.
    """
    named = {
        query: [(f"{query}{place}", split) for place, split in enumerate(splits)] for query, splits in histories.items()
    }
    item_ids = [item_id for events in named.values() for item_id, _ in events]
    return build_world(named, item_ids=item_ids, history_length=LENGTH)


def windows_of(world: Any, splits: tuple[str, ...] = ("train",)) -> Windows:
    return training_windows(world.dataset, splits, spec=world.spec, vocabularies=world.vocabularies)


def named(world: Any, rows: np.ndarray) -> list[list[str]]:
    return [[world.dataset.items.catalogue.item_id(row) for row in line] for line in rows.tolist()]


def test_a_short_history_is_one_window_whose_first_event_is_learnt_from_padding(build_world):
    world = a_world(build_world, {"p": ["train", "train", "train"]})
    windows = windows_of(world)
    assert named(world, windows.inputs.history_rows) == [["", "", "p0", "p1"]]
    assert named(world, windows.targets) == [["", "p0", "p1", "p2"]]


def test_a_long_history_is_cut_from_the_newest_event_backwards(build_world):
    world = a_world(build_world, {"p": ["train"] * 9})
    windows = windows_of(world)
    assert named(world, windows.inputs.history_rows) == [
        ["p4", "p5", "p6", "p7"],
        ["p0", "p1", "p2", "p3"],
        ["", "", "", ""],
    ]
    assert named(world, windows.targets) == [
        ["p5", "p6", "p7", "p8"],
        ["p1", "p2", "p3", "p4"],
        ["", "", "", "p0"],
    ]


def test_windows_end_where_training_ends(build_world):
    world = a_world(build_world, {"p": ["train", "train", "ranking", "validation", "test"], "q": ["test"]})
    assert named(world, windows_of(world).targets) == [["", "", "p0", "p1"]]
    more = windows_of(world, ("train", "ranking", "validation"))
    assert named(world, more.targets) == [["p0", "p1", "p2", "p3"]]


histories = st.dictionaries(
    st.sampled_from("pqr"),
    st.tuples(st.integers(0, 11), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)).map(
        lambda counts: [
            split
            for split, count in zip(("train", "ranking", "validation", "test"), counts, strict=True)
            for _ in range(count)
        ]
    ),
    min_size=1,
).filter(lambda queries: any("train" in splits for splits in queries.values()))
known = st.sampled_from([("train",), ("train", "ranking"), ("train", "ranking", "validation")])


@settings(deadline=None, max_examples=40)
@given(histories=histories, splits=known)
def test_every_training_event_is_a_target_exactly_once_and_no_other_event_appears(build_world, histories, splits):
    world = a_world(build_world, histories)
    windows = windows_of(world, splits)
    events, rows = world.dataset.events, world.dataset.event_rows()
    training = sorted(rows[events.places(splits)].tolist())
    assert sorted(windows.targets[windows.targets >= FIRST].tolist()) == training
    assert set(windows.inputs.history_rows[windows.inputs.history_mask].tolist()) <= set(training)


@settings(deadline=None, max_examples=40)
@given(histories=histories)
def test_the_target_of_a_position_is_the_next_positions_input(build_world, histories):
    world = a_world(build_world, histories)
    windows = windows_of(world)
    np.testing.assert_array_equal(windows.targets[:, :-1], windows.inputs.history_rows[:, 1:])


@settings(deadline=None, max_examples=40)
@given(histories=histories)
def test_every_target_follows_its_input_in_the_log_and_a_first_event_follows_padding(build_world, histories):
    world = a_world(build_world, histories)
    windows = windows_of(world)
    rows, starts = world.dataset.event_rows().tolist(), set(world.dataset.events.offsets[:-1].tolist())
    for before, after in zip(windows.inputs.history_rows.flatten(), windows.targets.flatten(), strict=True):
        if after != PADDING:
            place = rows.index(after)
            assert before == (PADDING if place in starts else rows[place - 1])


@settings(deadline=None, max_examples=20)
@given(histories=histories)
def test_a_window_carries_the_attributes_of_its_own_query(build_world, histories):
    world = a_world(build_world, histories)
    windows = windows_of(world)
    rows = world.dataset.event_rows().tolist()
    queries = world.dataset.events.query_of(np.array([rows.index(row) for row in windows.targets[:, -1]]))
    genders = [world.dataset.query_categories["gender"][query] for query in queries]
    encoded = world.vocabularies.categories["gender"].encode(genders)
    np.testing.assert_array_equal(windows.inputs.categories[:, 0], encoded)


def test_a_held_out_event_is_asked_for_from_everything_before_it(build_world):
    world = a_world(build_world, {"p": ["train"] * 6 + ["validation", "test"], "q": ["train", "train", "train"]})
    held = held_out(world.dataset, "test", spec=world.spec, vocabularies=world.vocabularies)
    assert held.places.tolist() == [7]
    assert named(world, held.targets[None]) == [["p7"]]
    assert named(world, held.inputs.history_rows) == [["p3", "p4", "p5", "p6"]]
    assert named(world, held.inputs.seen_rows) == [["p0", "p1", "p2", "p3", "p4", "p5", "p6"]]


def test_a_split_without_events_holds_nothing_out(build_world):
    world = a_world(build_world, {"p": ["train"] * 3})
    held = held_out(world.dataset, "validation", spec=world.spec, vocabularies=world.vocabularies)
    assert held.targets.shape == (0,)
    assert held.inputs.history_rows.shape == (0, LENGTH)


@pytest.fixture(scope="module")
def world(build_world: Any) -> Any:
    return a_world(build_world, {query: ["train"] * 7 + ["validation"] for query in "abcdefghij"})


def order_of(data: TowerData) -> list[list[int]]:
    """The last target of every window, which is its own, batch by batch."""
    return [batch[3][:, -1].tolist() for batch in data.train_dataloader()]


def in_epoch(data: TowerData, epoch: int) -> TowerData:
    data.trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
    return data


def test_an_epoch_shows_every_window_once(world):
    data = world.data(batch_size=6)
    batches = order_of(data)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]  # 10 queries of 2 windows
    assert sorted(row for batch in batches for row in batch) == sorted(data.windows.targets[:, -1].tolist())


def test_the_parts_of_a_batch_belong_together(world):
    data = world.data(batch_size=6)
    place_of = {row: place for place, row in enumerate(data.windows.targets[:, -1].tolist())}
    for history_rows, categories, numbers, targets in data.train_dataloader():
        places = [place_of[row] for row in targets[:, -1].tolist()]
        np.testing.assert_array_equal(history_rows, data.windows.inputs.history_rows[places])
        np.testing.assert_array_equal(categories, data.windows.inputs.categories[places])
        np.testing.assert_array_equal(numbers, data.windows.inputs.numbers[places])
        np.testing.assert_array_equal(targets, data.windows.targets[places])


def test_the_order_follows_from_seed_and_epoch(world):
    first = order_of(in_epoch(world.data(seed=1), 0))
    assert order_of(world.data(seed=1)) == first  # without a trainer it is the first epoch
    assert order_of(in_epoch(world.data(seed=1), 3)) == order_of(in_epoch(world.data(seed=1), 3))
    others = [order_of(in_epoch(world.data(seed=seed), epoch)) for seed, epoch in ((1, 1), (1, 2), (2, 0))]
    assert all(other != first for other in others)


def test_the_order_does_not_depend_on_how_often_a_loader_is_begun(world):
    # Lightning begins a loader twice in an epoch, but once in the epoch in which it resumes.
    loader = world.data().train_dataloader()
    iter(loader)
    assert [batch[3][:, -1].tolist() for batch in loader] == order_of(world.data())


def test_a_loader_draws_nothing_from_the_generator_of_dropout_and_negatives(world):
    before = torch.get_rng_state()
    order_of(world.data())
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_comes_in_order_with_the_items_seen(world):
    data = world.data()
    (batch,) = list(data.val_dataloader())
    history_rows, _, _, targets, seen = batch
    np.testing.assert_array_equal(targets, data.validation.targets)
    np.testing.assert_array_equal(history_rows, data.validation.inputs.history_rows)
    np.testing.assert_array_equal(seen, data.validation.inputs.seen_rows)
    assert seen.shape == (10, 7)


def test_without_held_out_events_there_is_nothing_to_validate(world):
    assert world.data(validation=None).val_dataloader() == []
