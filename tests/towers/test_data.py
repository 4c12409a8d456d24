from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.tower_inputs import read_as_encoded
from features.vocab import FIRST, PADDING
from towers.data import TowerData, Windows, training_windows

LENGTH = 4


def a_world(
    build_world: Any,
    histories: dict[str, list[str]],
    *,
    refused: Collection[int] = (),
    stored_history: int = 1000,
    repeats: bool = False,
) -> Any:
    """A world in which every event has an item of its own, so that an item tells which event it was.

    Args:
        build_world: the fixture.
        histories: the splits of each query's events in order of time.
        refused: places in the log of the events without relevance.
        stored_history: of the spec.
        repeats: of the spec.
    """
    named = {
        query: [(f"{query}{place}", split) for place, split in enumerate(splits)] for query, splits in histories.items()
    }
    item_ids = [item_id for events in named.values() for item_id, _ in events]
    return build_world(
        named,
        item_ids=item_ids,
        history_length=LENGTH,
        refused=refused,
        stored_history=stored_history,
        repeats=repeats,
    )


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


def test_a_refused_event_is_in_histories_and_is_never_a_target(build_world):
    world = a_world(build_world, {"p": ["train"] * 4}, refused={1, 3})
    windows = windows_of(world)
    assert named(world, windows.inputs.history_rows) == [["", "p0", "p1", "p2"]]
    assert named(world, windows.targets) == [["p0", "", "p2", ""]]


def test_a_window_that_teaches_nothing_is_left_out(build_world):
    # p's newest window holds events 4 to 7, its older one 0 to 3; all of q is refused
    world = a_world(build_world, {"p": ["train"] * 8, "q": ["train"] * 2}, refused={0, 1, 2, 3, 8, 9})
    assert named(world, windows_of(world).targets) == [["p4", "p5", "p6", "p7"]]


def test_without_a_stored_history_every_event_is_learnt_from_what_its_query_is(build_world):
    world = build_world(
        {"p": [("a", "train"), ("b", "train")]}, item_ids=["a", "b"], history_length=LENGTH, stored_history=0
    )
    windows = windows_of(world)
    assert named(world, windows.inputs.history_rows) == [[""], [""]]
    assert named(world, windows.targets) == [["b"], ["a"]]


def test_queries_without_text_have_text_embeddings_of_no_width(build_world):
    world = a_world(build_world, {"p": ["train", "train", "validation"]})
    assert windows_of(world).texts.shape == (1, 0)
    assert world.held_out("validation").texts.shape == (1, 0)


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
    held = world.held_out("test")
    assert named(world, held.relevant) == [["p7"]]
    assert named(world, held.inputs.history_rows) == [["p3", "p4", "p5", "p6"]]
    assert named(world, held.excluded) == [["p6", "p5", "p4", "p3", "p2", "p1", "p0"]]  # the newest first


def test_what_may_be_shown_again_is_not_excluded(build_world):
    world = a_world(build_world, {"p": ["train"] * 3 + ["test"]}, repeats=True)
    assert world.held_out("test").excluded.shape == (1, 0)


def test_no_more_is_excluded_than_is_stored(build_world):
    world = a_world(build_world, {"p": ["train"] * 7 + ["test"]}, stored_history=5)
    assert named(world, world.held_out("test").excluded) == [["p6", "p5", "p4", "p3", "p2"]]


def test_a_split_without_events_holds_nothing_out(build_world):
    world = a_world(build_world, {"p": ["train"] * 3})
    held = world.held_out("validation")
    assert len(held.relevant) == 0
    assert held.inputs.history_rows.shape == (0, LENGTH)


@pytest.fixture(scope="module")
def world(build_world: Any) -> Any:
    return a_world(build_world, {query: ["train"] * 7 + ["validation"] for query in "abcdefghij"})


def order_of(data: TowerData) -> list[list[int]]:
    """The last target of every window, which is its own, batch by batch."""
    return [batch[-2][:, -1].tolist() for batch in data.train_dataloader()]


def in_epoch(data: TowerData, epoch: int, *, rank: int = 0, ranks: int = 1) -> TowerData:
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=ranks)
    data.trainer = trainer
    return data


def test_an_epoch_shows_every_window_once(world):
    data = world.data(batch_size=6)
    batches = order_of(data)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]  # 10 queries of 2 windows
    assert sorted(row for batch in batches for row in batch) == sorted(data.windows.targets[:, -1].tolist())


def test_ranks_share_an_epoch_in_equal_parts(world):
    data = world.data(batch_size=6)
    whole = [row for batch in order_of(in_epoch(data, 2)) for row in batch]
    parts = [[row for batch in order_of(in_epoch(data, 2, rank=rank, ranks=3)) for row in batch] for rank in range(3)]
    assert [len(part) for part in parts] == [6, 6, 6]  # 20 windows, of which 2 would be more than others have
    assert sorted(row for part in parts for row in part) == sorted(whole[:18])


def test_the_parts_of_a_batch_belong_together(world):
    data = world.data(batch_size=6)
    place_of = {row: place for place, row in enumerate(data.windows.targets[:, -1].tolist())}
    for history_rows, *query, text_embeddings, targets, queries in data.train_dataloader():
        places = [place_of[row] for row in targets[:, -1].tolist()]
        np.testing.assert_array_equal(history_rows, data.windows.inputs.history_rows[places])
        for name, expected in read_as_encoded(data.windows.inputs).items():
            np.testing.assert_array_equal(query.pop(0), expected[places], err_msg=name)
        np.testing.assert_array_equal(text_embeddings, data.windows.texts[places])
        np.testing.assert_array_equal(targets, data.windows.targets[places])
        np.testing.assert_array_equal(queries, data.windows.queries[places])


def test_an_epoch_of_fewer_steps_shows_other_windows_each_time(world):
    data = world.data(batch_size=6, epoch_steps=2)
    first, second = order_of(in_epoch(data, 0)), order_of(in_epoch(data, 1))
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [6, 6]
    assert first == order_of(in_epoch(world.data(batch_size=6), 0))[:2]
    assert {row for batch in first for row in batch} != {row for batch in second for row in batch}


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
    assert [batch[-2][:, -1].tolist() for batch in loader] == order_of(world.data())


def test_a_loader_draws_nothing_from_the_generator_of_dropout_and_negatives(world):
    before = torch.get_rng_state()
    order_of(world.data())
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_comes_in_order_with_what_was_chosen_and_what_is_excluded(world):
    data = world.data()
    (batch,) = list(data.val_dataloader())
    history_rows, *_, relevant, excluded = batch
    np.testing.assert_array_equal(relevant, data.validation.relevant)
    np.testing.assert_array_equal(history_rows, data.validation.inputs.history_rows)
    np.testing.assert_array_equal(excluded, data.validation.inputs.seen_rows)
    assert excluded.shape == (10, 7)


def test_without_held_out_events_there_is_nothing_to_validate(world):
    assert world.data(validation=None).val_dataloader() == []
