"""Filters that are kept while an index changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.towers.test_index_filters import ALL, filter_of
from tests.towers.test_index_types import exhaustive, items_of
from tests.towers.test_live_index import Table
from towers.index.build import FlatBuilder
from towers.index.changes import Changes
from towers.index.lists import IvfFlatBuilder
from towers.index.passing import Passing
from towers.index.ready_filter import ReadyFilter
from towers.index.snapshot import Snapshot

each = pytest.mark.parametrize("builder", ALL.values(), ids=ALL)


def assert_same(kept: ReadyFilter, anew: ReadyFilter, queries: np.ndarray, *, k: int) -> None:
    found, expected = kept.search(queries, k=k), anew.search(queries, k=k)
    # Exact search of one query and of many, or by a bitmap and without, adds up in another order.
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert [set(own) for own in found.rows.tolist()] == [set(own) for own in expected.rows.tolist()]


@each
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.02, 0.2, 0.3, 0.7, 1.0]))
def test_a_filter_carried_on_over_changes_finds_what_one_made_anew_finds(builder, seed, share):
    generator = np.random.default_rng(seed)
    table, queries = Table(120), items_of(4, seed=1, tail=0.3)
    items, rows = table.arrays()
    snapshot = Snapshot(exhaustive(builder.build(items, rows)))
    allowed = filter_of(share, size=2000, seed=seed)
    kept = snapshot.only(allowed)
    for step in range(5):
        changes = table.random_changes(generator, int(generator.integers(0, 12)), new_from=1000 + 100 * step)
        table.change(changes)
        snapshot = snapshot.with_changes(changes)
        if step == 3:
            snapshot = snapshot.merged(builder) if seed % 2 else snapshot.with_last(np.ones(2000, np.float32))
        allowed = allowed.copy()
        allowed[changes.rows] = (
            generator.random(len(changes.rows)) < share
        )  # what was updated may come to pass, or cease
        kept = snapshot.only(allowed, earlier=kept)
        assert len(kept.index) == allowed[table.arrays()[1]].sum()
        if not hasattr(builder, "links"):  # which may not reach an item that an exact copy has
            assert_same(kept, snapshot.only(allowed), queries, k=150)


@each
@pytest.mark.parametrize("share", [0.9, 0.05])
def test_changes_leave_what_was_made_ready_and_a_merge_does_not(builder, share):
    snapshot = Snapshot(builder.build(items_of(600, tail=0.3), np.arange(600) + 2))
    allowed = filter_of(share, size=702)
    first = snapshot.only(allowed)
    changed = snapshot.with_changes(Changes.of(np.array([700]), items_of(1), deleted=np.flatnonzero(allowed)[3:5]))
    kept = changed.only(allowed, earlier=first)
    assert structures(kept) == structures(first)
    assert len(first.index) == allowed[2:602].sum()
    assert len(kept.index) == allowed[2:602].sum() - 2 + allowed[700]
    other = changed.merged(builder)
    assert structures(other.only(allowed, earlier=kept)) != structures(kept)


def structures(filter_: ReadyFilter) -> list[object]:
    return [part.structure for part in filter_.passing]


def test_a_filter_of_a_later_state_is_not_carried_back():
    before = Snapshot(FlatBuilder().build(items_of(60), np.arange(60) + 2))
    after = before.with_changes(Changes.of(deleted=np.array([5, 6])))
    allowed = np.ones(62, np.bool_)
    later = after.only(allowed)
    assert len(later.index) == 58
    assert len(before.only(allowed, earlier=later).index) == 60
    one, two = (after.with_changes(Changes.of(deleted=np.array([row]))) for row in (7, 8))
    assert two.only(allowed, earlier=one.only(allowed)).search(items_of(2), k=62).rows.max() > 0
    assert set(two.only(allowed, earlier=one.only(allowed)).index.parts[0].items()[1].tolist()) == {*range(2, 62)} - {
        5,
        6,
        8,
    }


def test_another_effort_is_taken_over():
    builder = IvfFlatBuilder(lists=8, probes=1)
    index = builder.build(items_of(600), np.arange(600) + 2)
    allowed = filter_of(0.9, size=602)
    kept = Snapshot(index).only(allowed)
    wider = Snapshot(exhaustive(index)).only(allowed, earlier=kept)
    assert wider.index.effort == exhaustive(index).effort


def test_a_filter_too_short_for_what_was_added_is_refused():
    snapshot = Snapshot(FlatBuilder().build(items_of(60), np.arange(60) + 2))
    kept = snapshot.only(np.ones(62, np.bool_))
    added = snapshot.with_changes(Changes.of(np.array([80]), items_of(1)))
    with pytest.raises(ValueError, match="R at least 81; got bool"):
        added.only(np.ones(80, np.bool_), earlier=kept)


@given(st.integers(0, 2**32 - 1), st.integers(1, 100))
def test_what_went_is_what_one_mask_has_and_the_other_lacks(seed, size):
    generator = np.random.default_rng(seed)
    before = generator.random(size) < 0.7
    now = before & (generator.random(size) < 0.7)
    assert Passing.of(now).gone_since(Passing.of(before)).tolist() == np.flatnonzero(before & ~now).tolist()
    assert Passing.of(now).gone_since(None).tolist() == np.flatnonzero(~now).tolist()
