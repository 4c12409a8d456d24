"""An index that is changed while it is searched, of every type."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.towers.marked_items import AT_ONCE, NUM_FIXED, QUERY, Searchers, Window, fits, live_index
from tests.towers.test_changes import SPAWN
from tests.towers.test_index_filters import ALL, filter_of
from tests.towers.test_index_types import exhaustive, items_of, recall
from towers.errors import UnfitChange
from towers.index.build import FlatBuilder, IndexBuilder
from towers.index.changes import Changes
from towers.index.lists import IvfFlatBuilder, IvfSq8Builder
from towers.index.live import LiveIndex
from towers.index.search import NO_RESULT, ItemIndex
from towers.index.snapshot import Snapshot

each = pytest.mark.parametrize("builder", ALL.values(), ids=ALL)


class Table:
    """Items by row, changed as an index is: what search must find."""

    def __init__(self, num: int) -> None:
        self.items = dict(zip(range(2, num + 2), items_of(num, tail=0.3), strict=True))

    def change(self, changes: Changes) -> None:
        self.items.update(zip(changes.rows.tolist(), changes.embeddings, strict=True))
        for row in changes.deleted.tolist():
            del self.items[row]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array(sorted(self.items))
        return np.array([self.items[row] for row in rows.tolist()]), rows

    def random_changes(self, generator: np.random.Generator, num: int, *, new_from: int) -> Changes:
        known = generator.permutation(sorted(self.items))
        updated, deleted = known[:num], known[num : 2 * num]
        rows = np.concatenate([updated, np.arange(num) + new_from])
        return Changes.of(rows, items_of(2 * num, seed=new_from, tail=0.3), deleted=deleted)


def first_of(table: Table, queries: np.ndarray, k: int) -> np.ndarray:
    items, rows = table.arrays()
    return rows[np.argsort(-(queries @ items.T), axis=1)[:, :k]]


def shared(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


@each
def test_after_a_tenth_was_changed_recall_is_held_before_and_after_the_merge(builder):
    table, queries = Table(3000), items_of(100, seed=1, tail=0.3)
    items, rows = table.arrays()
    index = builder.build(items, rows)
    snapshot, generator = Snapshot(index), np.random.default_rng(0)
    for round_ in range(10):
        changes = table.random_changes(generator, 10, new_from=10_000 + 100 * round_)
        table.change(changes)
        snapshot = snapshot.with_changes(changes)
    assert (snapshot.seen, len(snapshot.index)) == (10, len(table.items))
    before = recall(index, items, queries)
    true = first_of(table, queries, 10)
    merged = snapshot.merged(builder)
    assert (merged.delta, merged.num_changed, merged.seen) == (None, 0, 10)
    for own in (snapshot, merged):
        found = own.search(queries, k=10).rows
        assert np.isin(found[found != NO_RESULT], list(table.items)).all()
        # Codebooks and links differ from build to build.
        assert shared(found, true) >= before - (0.03 if own is snapshot else 0.06)
    np.testing.assert_array_equal(
        index.search(queries, k=10).rows, builder.build(items, rows).search(queries, k=10).rows
    )


@each
def test_what_is_added_is_found_and_what_is_deleted_is_not(builder):
    items = items_of(300, tail=0.3)
    snapshot = Snapshot(builder.build(items, np.arange(300) + 2))
    new = 100 * np.eye(9, dtype=np.float32)[:1]
    added = snapshot.with_changes(Changes.of(np.array([500]), new))
    assert added.search(new, k=1).rows.tolist() == [[500]]
    assert snapshot.search(new, k=1).rows.tolist() != [[500]]
    moved = added.with_changes(Changes.of(np.array([500, 7]), np.concatenate([-new, new])))
    assert moved.search(new, k=1).rows.tolist() == [[7]]
    assert 500 not in moved.search(new, k=50).rows
    gone = moved.with_changes(Changes.of(deleted=np.array([7, 9])))
    assert not np.isin([7, 9], gone.search(new, k=302).rows).any()
    again = gone.with_changes(Changes.of(np.array([7]), new))
    assert again.search(new, k=1).rows.tolist() == [[7]]
    assert (gone.search(new, k=302).rows == 7).sum() == 0


@each
def test_an_index_can_be_emptied_and_filled_again(builder):
    rows = np.arange(60) + 2
    empty = Snapshot(builder.build(items_of(60), rows)).with_changes(Changes.of(deleted=rows))
    for snapshot in (empty, empty.merged(builder), empty.with_last(np.ones(62, np.float32))):
        assert len(snapshot.index) == 0
        assert snapshot.search(items_of(2), k=3).rows.tolist() == [[NO_RESULT] * 3] * 2
        assert snapshot.search(items_of(2), k=3, allowed=np.ones(62, np.bool_)).rows.tolist() == [[NO_RESULT] * 3] * 2
    filled = empty.with_changes(Changes.of(np.array([5]), items_of(1)))
    assert filled.search(items_of(1), k=2).rows.tolist() == [[5, NO_RESULT]]
    assert filled.merged(builder).search(items_of(1), k=2).rows.tolist() == [[5, NO_RESULT]]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(3, 60), name=st.sampled_from(["flat", "ivf_flat", "ivf_sq8"]))
def test_any_course_of_changes_ends_in_what_exact_search_over_the_same_items_says(seed, num, name):
    generator = np.random.default_rng(seed)
    table, queries = Table(num), items_of(4, seed=1)
    items, rows = table.arrays()
    snapshot = Snapshot(ALL[name].build(items, rows))
    for step in range(int(generator.integers(1, 6))):
        changes = table.random_changes(
            generator, int(generator.integers(0, len(table.items) // 2 + 1)), new_from=1000 + 100 * step
        )
        table.change(changes)
        snapshot = snapshot.with_changes(changes)
        if generator.random() < 0.3:
            snapshot = snapshot.merged(ALL[name])
    allowed = filter_of(generator.random(), size=2000, seed=seed)
    items, rows = table.arrays()
    for filter_ in (None, allowed):
        found = exhaustive(snapshot.index).search(queries, k=20, allowed=filter_)
        exact = FlatBuilder().build(items, rows).search(queries, k=20, allowed=filter_)
        np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(3, 60), name=st.sampled_from(["flat", "ivf_flat", "ivf_sq8"]))
def test_many_changes_in_one_go_are_the_same_as_one_after_the_other(seed, num, name):
    generator, table = np.random.default_rng(seed), Table(num)
    one_by_one = together = Snapshot(ALL[name].build(*table.arrays()))
    course = []
    for step in range(int(generator.integers(2, 7))):
        # Rows of a few come and go again and again.
        rows = generator.permutation(num + 8)[: num // 2] + 2
        goes = np.isin(rows, list(table.items)) & (generator.random(len(rows)) < 0.6)
        course.append(Changes.of(rows[~goes], items_of(len(rows), seed=step)[~goes], deleted=rows[goes]))
        table.change(course[-1])
        one_by_one = one_by_one.with_changes(course[-1])
    together = together.with_all(course)
    assert (together.seen, len(together.index)) == (one_by_one.seen, len(table.items))
    found, wanted = (exhaustive(own.index).search(items_of(4, seed=1), k=120) for own in (together, one_by_one))
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_changes_in_one_go_that_do_not_fit_are_refused():
    snapshot = Snapshot(FlatBuilder().build(items_of(9), np.arange(9) + 2))
    gone, back = Changes.of(deleted=np.array([3])), Changes.of(np.array([3]), items_of(1))
    assert len(snapshot.with_all([gone, back, gone]).index) == 8
    for course in ([gone, gone], [gone, Changes.of(deleted=np.array([99]))], [gone, back, gone, gone]):
        with pytest.raises(UnfitChange, match="is to be deleted and is not in the index"):
            snapshot.with_all(course)


@each
def test_another_tick_reaches_base_and_delta_and_what_is_deleted_stays_so(builder):
    items, queries = items_of(600, tail=0.3), items_of(20, seed=1)
    snapshot = Snapshot(exhaustive(builder.build(items, np.arange(600) + 2)))
    snapshot = snapshot.with_changes(Changes.of(np.array([3, 700]), items_of(2, seed=5), deleted=np.array([2, 4])))
    values = np.random.default_rng(2).normal(size=602).astype(np.float32)
    ticked = snapshot.with_last(values)
    embeddings, rows = (np.concatenate(own) for own in zip(*(p.items() for p in ticked.index.parts), strict=True))
    step = np.abs(items).max() / 100
    known = rows < 602
    np.testing.assert_allclose(embeddings[known, -1], values[rows[known]], atol=step)
    # 700 came after the table of this tick.
    np.testing.assert_allclose(embeddings[~known], items_of(2, seed=5)[1:])
    assert not np.isin([2, 4], ticked.search(queries, k=602).rows).any()
    assert ticked.seen == 1


def test_without_changes_exact_search_is_bit_for_bit_what_it_was_and_a_merge_is_an_index_built_anew():
    items, queries = items_of(3000), items_of(50, seed=1)
    index = FlatBuilder().build(items, np.arange(3000) + 2)
    live = Snapshot(index)
    assert live.index is index
    merged = live.with_changes(Changes.of(np.arange(3000) + 2, items)).merged(FlatBuilder())
    for own in (live, merged):
        np.testing.assert_array_equal(own.search(queries, k=30).rows, index.search(queries, k=30).rows)
        np.testing.assert_array_equal(own.search(queries, k=30).scores, index.search(queries, k=30).scores)


def test_a_merged_base_keeps_the_effort():
    builder = IvfSq8Builder(lists=8, probes=2, refine=2)
    index = exhaustive(builder.build(items_of(600), np.arange(600) + 2))
    merged = Snapshot(index).with_changes(Changes.of(deleted=np.array([3]))).merged(builder)
    assert merged.base.effort == index.effort


@each
def test_changes_that_do_not_fit_the_index_are_refused_and_nothing_is_lost(builder, tmp_path):
    items = items_of(300, tail=0.3)
    live = LiveIndex(builder.build(items, np.arange(300) + 2), builder=builder, log_path=tmp_path / "changes.log")
    live.apply(Changes.of(np.array([400]), items[:1], deleted=np.array([7])))
    before = live.snapshot
    for changes, message in (
        (Changes.of(np.array([500]), items[:1], deleted=np.array([7, 3])), r"1 of 2 items to delete .* rows \[7\]"),
        (Changes.of(np.array([500]), items[:1, :5]), "expected embeddings of width 9; got 5"),
    ):
        with pytest.raises(UnfitChange, match=message):
            live.apply(changes)
    assert live.snapshot is before
    assert live.catch_up() == 1
    assert live.apply(Changes.of(np.array([500]), items[:1])) == 2
    live.close()
    again = LiveIndex(builder.build(items, np.arange(300) + 2), builder=builder, log_path=tmp_path / "changes.log")
    np.testing.assert_array_equal(
        again.snapshot.search(items[:9], k=20).rows, live.snapshot.search(items[:9], k=20).rows
    )
    again.close()


def test_a_merge_begins_by_itself_and_changes_made_meanwhile_are_in_it(tmp_path):
    builder, items = IvfFlatBuilder(lists=8, probes=8), items_of(2000)
    live = LiveIndex(builder.build(items, np.arange(2000) + 2), builder=builder, log_path=tmp_path / "changes.log")
    for number in range(1, 300):
        live.apply(Changes.of(np.array([5000 + number]), items[number : number + 1], deleted=np.array([number + 1])))
    live.wait()
    assert live.snapshot.seen == 299
    assert live.snapshot.num_changed < 2 * 299
    assert len(live.snapshot.index) == 2000
    live.merge()
    assert live.snapshot.num_changed == 0
    assert sorted(live.snapshot.base.parts[0].rows.tolist()) == [*range(301, 2002), *range(5001, 5300)]
    live.close()


def test_each_change_is_told_once_and_in_order_before_it_is_found_whoever_made_it(tmp_path):
    builder, items = FlatBuilder(), items_of(100)
    base, path = builder.build(items, np.arange(100) + 2), tmp_path / "changes.log"
    told = []
    live = LiveIndex(base, builder=builder, log_path=path)
    live.apply(Changes.of(np.array([200]), items[:1], notes=b"one"))

    def hear(number, changes):
        told.append((number, changes.notes))
        if other is not None:
            assert other.snapshot.seen == number - 1

    other = None
    other = LiveIndex(base, builder=builder, log_path=path, heard=hear)
    live.apply(Changes.of(deleted=np.array([200]), notes=b"two"))

    def following(snapshot):
        assert snapshot.seen == 2
        return Changes.of(np.array([201]), items[:1], notes=b"three")

    assert other.apply(following) == 3
    other.merge()
    assert live.catch_up() == 3
    assert told == [(1, b"one"), (2, b"two"), (3, b"three")]
    live.close()
    other.close()


def test_a_merge_that_fails_leaves_the_former_base_and_the_delta_answering(tmp_path, caplog):
    class Failing:
        def build(self, embeddings: np.ndarray, rows: np.ndarray) -> ItemIndex:
            raise MemoryError("no memory for another base")

    failing: IndexBuilder = Failing()
    items = items_of(100)
    base = FlatBuilder().build(items, np.arange(100) + 2)
    live = LiveIndex(base, builder=failing, log_path=tmp_path / "changes.log")
    live.apply(Changes.of(np.arange(50) + 200, items[:50]))
    live.wait()
    assert "could not be merged; 50 changed items stay beside it" in caplog.text
    assert len(live.snapshot.index) == 150
    assert live.apply(Changes.of(deleted=np.array([200]))) == 2
    live.close()


def test_sixteen_threads_search_while_items_change_and_bases_are_swapped(tmp_path):
    live = live_index(tmp_path / "changes.log", merge_share=0.02)
    window, thirds = Window(2000), np.arange(10_000) % 3 > 0

    def search(place: int) -> object:
        gone, there = window.deleted, window.added
        allowed = None if place % 4 else thirds
        found = live.snapshot.search(QUERY, k=NUM_FIXED + 200, allowed=allowed)
        kept = range(window.deleted + AT_ONCE, there)  # so many more may have gone meanwhile, not yet acknowledged
        ok = fits(found, gone=[range(window.first, gone)], there=[kept], allowed=allowed)
        return None if ok else (gone, there, found.rows[0][:5])

    searchers, bases = Searchers(16, search), set()
    until = time.monotonic() + 6
    while time.monotonic() < until and window.added < 9000:
        window.turn(live)
        bases.add(id(live.snapshot.base.parts[0].rows))
    searchers.stop()
    live.close()
    assert searchers.wrong == []
    assert min(searchers.searches) > 0
    assert len(bases) > 1


def change_forever(directory, place: int) -> None:
    builder, items = FlatBuilder(), items_of(100)
    live = LiveIndex(builder.build(items, np.arange(100) + 2), builder=builder, log_path=directory / "changes.log")
    with (directory / f"acknowledged.{place}").open("wb", buffering=0) as file:
        for number in range(10**6):
            row = 1000 + 2 * number + place
            live.apply(Changes.of(np.array([row]), items[:1], deleted=np.array([row - 2]) if number else None))
            file.write(b"%d\n" % row)


def test_two_processes_change_one_index_and_a_third_follows_through_their_deaths(tmp_path):
    builder, items = FlatBuilder(), items_of(100)
    base = builder.build(items, np.arange(100) + 2)
    live = LiveIndex(base, builder=builder, log_path=tmp_path / "changes.log")
    processes = [SPAWN.Process(target=change_forever, args=(tmp_path, place)) for place in (0, 1)]
    for process in processes:
        process.start()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        live.catch_up()
        counts = [len(rows_of(tmp_path / f"acknowledged.{place}")) for place in (0, 1)]
        if min(counts) > 300:
            break
    for process in processes:
        process.kill()
        process.join()
    assert min(counts) > 300
    live.catch_up()
    found = set(live.snapshot.search(items[:1], k=200).rows[0].tolist()) - {NO_RESULT}
    # Of each process the last acknowledged row is there, or the next, which was logged and not yet acknowledged.
    for place in (0, 1):
        last = rows_of(tmp_path / f"acknowledged.{place}")[-1]
        assert {row for row in found if row >= 1000 and row % 2 == place} in ({last}, {last + 2})
    assert found >= set(range(2, 102))
    live.close()


def rows_of(path) -> list[int]:
    return [int(row) for row in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
