"""Changes by themselves, their log, and processes that share it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.towers.test_index_types import items_of
from towers.errors import UnfitChange, UnreadableLog
from towers.index.change_log import ChangeLog
from towers.index.changes import Changes

WIDTH = 9
SPAWN = multiprocessing.get_context("spawn")


def change(number: int, *, num: int = 3) -> Changes:
    """What the change of a number is, so that a reader can tell whether it came whole."""
    rows = np.arange(num) + 1000 * number
    return Changes.of(rows, items_of(num, seed=number), deleted=np.array([1000 * number + 999]))


def same(one: Changes, other: Changes) -> bool:
    return one.to_bytes() == other.to_bytes()


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 5), st.binary(max_size=9), st.integers(0, 2**32 - 1))
def test_changes_read_from_bytes_are_the_same(num, num_deleted, width, notes, seed):
    generator = np.random.default_rng(seed)
    rows = generator.permutation(100)[: num + num_deleted] + 1
    vectors = generator.normal(size=(num, width)).astype(np.float32)
    own = Changes.of(rows[:num], vectors, deleted=rows[num:], notes=notes)
    read = Changes.from_bytes(own.to_bytes())
    assert read.notes == notes
    assert read.rows.tolist() == rows[:num].tolist()
    assert read.deleted.tolist() == rows[num:].tolist()
    np.testing.assert_array_equal(read.embeddings, own.embeddings)


@pytest.mark.parametrize(
    ("rows", "embeddings", "deleted", "message"),
    [
        ([1, 2], np.zeros((3, 2)), [], r"an embedding for each of 2 rows; got \[3, 2\]"),
        ([1, 2], np.zeros(2), [], "an embedding for each of 2 rows"),
        ([1, 1], np.zeros((2, 2)), [], "stands twice"),
        ([1, 2], np.zeros((2, 2)), [2], "stands twice"),
        ([], None, [4, 4], "stands twice"),
        ([1], np.full((1, 2), np.nan), [], "NaN or infinity"),
        ([1], np.full((1, 2), 1e39), [], "NaN or infinity"),
        ([1], np.full((1, 2), -1e19), [], r"beyond 1e\+18"),
        ([0], np.zeros((1, 2)), [], "ItemRows above 0, which says that there is no item; got 0"),
        ([], None, [-3], "got -3"),
        ([], None, [1.5], r"whole ItemRows \[M\]; got float64"),
        ([], None, [[1]], r"whole ItemRows \[M\]; got int64 \[1, 1\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_changes_that_do_not_fit_one_another_are_refused(rows, embeddings, deleted, message):
    given_rows = np.array(rows) if len(rows) else None
    with pytest.raises(UnfitChange, match=message):
        Changes.of(given_rows, embeddings, deleted=np.array(deleted) if len(deleted) else None)


def test_a_log_is_read_from_a_number_on(tmp_path):
    log = ChangeLog(tmp_path / "changes.log", width=WIDTH)
    follower = ChangeLog(tmp_path / "changes.log", width=WIDTH)
    for number in (1, 2, 3):
        with log.appending():
            assert log.append(change(number)) == number
    assert [same(own, change(at)) for at, own in enumerate(follower.new(), 1)] == [True] * 3
    assert (follower.seen, list(follower.new())) == (3, [])
    late = ChangeLog(tmp_path / "changes.log", width=WIDTH, seen=2)
    assert [same(own, change(3)) for own in late.new()] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["changes.log"]


def test_two_who_append_in_turns_see_all_of_each_other(tmp_path):
    logs = [ChangeLog(tmp_path / "changes.log", width=WIDTH) for _ in range(2)]
    for number in range(1, 7):
        log = logs[number % 2]
        with log.appending():
            assert len(list(log.new())) == (number > 1)
            assert log.append(change(number)) == number


def test_a_log_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "changes.log"
    log = ChangeLog(path, width=WIDTH, seen=5)
    with log.appending():
        assert log.append(change(6)) == 6
    with pytest.raises(UnreadableLog, match="of width 9, the index of 8"):
        ChangeLog(path, width=8)
    for seen in (4, 7):
        with pytest.raises(UnreadableLog, match=f"has changes from 6 to [56], and those after {seen} are asked for"):
            ChangeLog(path, width=WIDTH, seen=seen)
    path.write_bytes(b"something else, and long enough to hold a header")
    with pytest.raises(UnreadableLog, match="is no log of changes"):
        ChangeLog(path, width=WIDTH)


def written(path: Path, num: int) -> list[int]:
    """A log of so many changes; where each ends."""
    log, ends = ChangeLog(path, width=WIDTH), []
    for number in range(1, num + 1):
        with log.appending():
            log.append(change(number))
        ends.append(path.stat().st_size)
    log.close()
    return ends


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1), garbage=st.binary(max_size=20))
def test_a_record_cut_short_is_passed_over_and_the_next_takes_its_place(share, garbage, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "changes.log"
    ends = written(path, 3)
    cut = int(ends[0] + share * (ends[2] - ends[0]))
    whole = sum(end <= cut for end in ends)
    path.write_bytes(path.read_bytes()[:cut] + (garbage if cut not in ends else b""))
    log = ChangeLog(path, width=WIDTH)
    assert len(list(log.new())) == whole
    with log.appending():
        assert log.append(change(whole + 1)) == whole + 1
    assert [same(own, change(at)) for at, own in enumerate(ChangeLog(path, width=WIDTH).new(), 1)] == [True] * (
        whole + 1
    )


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_changed_before_the_end_is_an_error_and_none_is_lost_in_silence(share, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "changes.log"
    ends = written(path, 3)
    content = bytearray(path.read_bytes())
    at = int(share * ends[1])  # not in the last record, which cannot be told from a torn one
    content[at] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(UnreadableLog, match=r"damaged at byte|is no log of changes|of embeddings of width"):
        list(ChangeLog(path, width=WIDTH).new())


def append_forever(path: Path, acknowledged: Path) -> None:
    log = ChangeLog(path, width=WIDTH)
    with acknowledged.open("wb", buffering=0) as file:
        while True:
            with log.appending():
                list(log.new())
                number = log.append(change(log.seen + 1, num=1 + log.seen % 200))
            file.write(b"%d\n" % number)


def test_what_was_acknowledged_survives_a_kill_and_a_follower_sees_it_in_order(tmp_path):
    path, acknowledged = tmp_path / "changes.log", tmp_path / "acknowledged"
    follower = ChangeLog(path, width=WIDTH)
    seen = 0
    for _ in range(3):
        process = SPAWN.Process(target=append_forever, args=(path, acknowledged))
        process.start()
        until = time.monotonic() + 60
        start = seen
        while seen < start + 40 and time.monotonic() < until:
            for own in follower.new():
                assert same(own, change(seen + 1, num=1 + seen % 200))
                seen += 1
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen += sum(1 for _ in follower.new())
        last = [int(number) for number in acknowledged.read_bytes().split(b"\n")[:-1]][-1]
        # One more than was acknowledged may have been written.
        assert start + 40 <= seen
        assert last <= seen <= last + 1
