import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.spec import DAY_MS
from features.statistics import STATISTICS, ItemStatistics
from serving.deltas import CURRENT, MANIFEST_FILE, STATISTICS_FILE, Deltas, deltas_dir
from serving.errors import DeltaRefused
from serving.release import Release, verify

FIRST_TICK = 10


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    """A release that a test may write deltas beside; its own tick is day 1."""
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


@pytest.fixture
def deltas(release_dir: Path) -> Deltas:
    return Release.open(release_dir).deltas


def statistics(deltas: Deltas, day: int) -> ItemStatistics:
    """Aggregates as of a day that no other day has."""
    values = np.random.default_rng(day).random((1, deltas.num_rows, len(STATISTICS)), dtype=np.float32)
    return ItemStatistics(ticks_at_ms=np.array([day * DAY_MS]), values=values)


def write(deltas: Deltas, *days: int) -> None:
    for day in days:
        deltas.write(statistics(deltas, day))


def test_a_delta_comes_back_as_it_was_written(deltas: Deltas) -> None:
    written = statistics(deltas, FIRST_TICK)
    assert deltas.newest == 0
    assert deltas.write(written) == 1

    delta = deltas.read(1)
    assert (delta.number, deltas.newest, delta.tick_at_ms) == (1, 1, FIRST_TICK * DAY_MS)
    np.testing.assert_array_equal(delta.statistics.values, written.values)
    assert not delta.statistics.values.flags.writeable  # mapped: all instances share one copy


def test_writing_deltas_leaves_the_release_as_it_was(release_dir: Path, deltas: Deltas) -> None:
    before = {path: path.stat().st_mtime_ns for path in release_dir.rglob("*")}
    manifest = verify(release_dir)
    write(deltas, 10, 11)
    assert verify(release_dir) == manifest
    assert {path: path.stat().st_mtime_ns for path in release_dir.rglob("*")} == before
    assert deltas.directory == release_dir.with_name("release.deltas") / manifest["release_id"]


def test_a_release_opens_at_its_newest_delta_or_at_a_stated_one(release_dir: Path, deltas: Deltas) -> None:
    write(deltas, 10, 11)
    built = Release.open(release_dir, delta=0)
    for number, day in ((1, 10), (2, 11)):
        release = Release.open(release_dir, delta=number)
        assert release.delta == number
        np.testing.assert_array_equal(release.stage1.statistics.values, statistics(deltas, day).values)
        assert release.release_id == built.release_id
    assert (built.delta, Release.open(release_dir).delta) == (0, 2)
    with pytest.raises(DeltaRefused, match="000003 is no whole delta"):
        Release.open(release_dir, delta=3)


def test_a_delta_that_was_not_made_current_is_none_yet_and_its_number_is_taken_again(
    release_dir: Path, deltas: Deltas
) -> None:
    write(deltas, 10)
    shutil.copytree(deltas.path(1), deltas.path(2))  # a writer was killed right before the last step
    (deltas.directory / ".000003.partial").mkdir()
    assert Release.open(release_dir).delta == 1
    write(deltas, 11)
    assert Release.open(release_dir).delta == deltas.newest == 2
    np.testing.assert_array_equal(deltas.read(2).statistics.values, statistics(deltas, 11).values)


def of_manifest(key: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
        (path / MANIFEST_FILE).write_text(json.dumps({**manifest, key: value}))

    return change


def truncated(name: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def flipped(path: Path) -> None:
    content = bytearray((path / STATISTICS_FILE).read_bytes())
    content[-1] ^= 1
    (path / STATISTICS_FILE).write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated array": (truncated(STATISTICS_FILE), r"statistics\.npy is damaged: its sha256 should be \w+ but is \w+"),
    "a flipped bit": (flipped, r"statistics\.npy is damaged"),
    "no array": (lambda path: (path / STATISTICS_FILE).unlink(), "no whole delta .*FileNotFoundError"),
    "truncated manifest": (truncated(MANIFEST_FILE), "no whole delta .*JSONDecodeError"),
    "an empty manifest": (lambda path: os.truncate(path / MANIFEST_FILE, 0), "no whole delta .*JSONDecodeError"),
    "no manifest": (lambda path: (path / MANIFEST_FILE).unlink(), "no whole delta .*FileNotFoundError"),
    "nothing": (lambda path: shutil.rmtree(path), "no whole delta .*FileNotFoundError"),
    "another release's": (of_manifest("release_id", "0123"), r"expected release_id \w{16}, its manifest has 0123"),
    "another spec's": (of_manifest("spec_hash", "abcd"), r"expected spec_hash \w{16}, its manifest has abcd"),
    "another number": (of_manifest("number", 7), "expected number 2, its manifest has 7"),
    "another copy's": (of_manifest("previous", "beef"), "written beside another copy of the release"),
    "other statistics": (of_manifest("statistics", ["count_all"]), "expected float32 .* of count_all"),
    "no tick": (of_manifest("tick_at_ms", None), "no whole delta .*TypeError"),
    "an older tick": (of_manifest("tick_at_ms", 0), r"of a tick after 86400000; got delta 2 of tick 0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_delta_that_is_not_whole_or_not_the_releases_is_refused_and_the_one_before_serves(
    release_dir: Path, deltas: Deltas, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = DAMAGE[damage]
    write(deltas, 10, 11)
    change(deltas.path(2))
    with pytest.raises(DeltaRefused, match=message):
        Release.open(release_dir, delta=2)
    release = Release.open(release_dir)
    assert release.delta == 1
    assert "delta 2 is left out" in caplog.text
    np.testing.assert_array_equal(release.stage1.statistics.values, statistics(deltas, 10).values)


def test_the_next_delta_mends_what_was_damaged(release_dir: Path, deltas: Deltas) -> None:
    write(deltas, 10)
    flipped(deltas.path(1))
    write(deltas, 11)
    assert Release.open(release_dir).delta == 2


def test_earlier_deltas_may_be_removed(release_dir: Path, deltas: Deltas) -> None:
    write(deltas, 10, 11)
    shutil.rmtree(deltas.path(1))
    assert Release.open(release_dir).delta == 2


def test_rows_of_another_catalogue_are_neither_written_nor_read(deltas: Deltas) -> None:
    values = np.zeros((1, deltas.num_rows + 1, len(STATISTICS)), dtype=np.float32)
    grown = ItemStatistics(ticks_at_ms=np.array([10 * DAY_MS]), values=values)
    with pytest.raises(DeltaRefused, match=rf"expected float32 \({deltas.num_rows}, .*\({deltas.num_rows + 1}, "):
        deltas.write(grown)
    assert deltas.newest == 0


def test_a_link_that_names_no_delta_is_refused_and_the_release_opens_as_built(
    release_dir: Path, deltas: Deltas, caplog: pytest.LogCaptureFixture
) -> None:
    deltas.directory.mkdir(parents=True)
    (deltas.directory / CURRENT).symlink_to("../elsewhere")
    with pytest.raises(DeltaRefused, match=r"names '\.\./elsewhere'"):
        _ = deltas.newest
    assert Release.open(release_dir).delta == 0
    assert "no delta is applied" in caplog.text


def test_a_release_exported_anew_in_the_same_place_begins_without_deltas(release_dir: Path, deltas: Deltas) -> None:
    write(deltas, 10)
    assert deltas_dir(release_dir, "anotherid0000000").parent == deltas.directory.parent
    assert deltas_dir(release_dir, "anotherid0000000") != deltas.directory


_WRITER = """
import sys
from pathlib import Path
import numpy as np
from features.statistics import ItemStatistics
from serving.deltas import Deltas
directory, release_id, spec_hash, num_rows, num_columns, first = sys.argv[1:]
deltas = Deltas(directory=Path(directory), release_id=release_id, spec_hash=spec_hash, num_rows=int(num_rows))
for day in range(int(first), 100_000):
    values = np.full((1, int(num_rows), int(num_columns)), day, dtype=np.float32)
    deltas.write(ItemStatistics(ticks_at_ms=np.array([day * 86_400_000]), values=values))
"""


def test_a_writer_killed_at_any_moment_leaves_whole_deltas(release_dir: Path, deltas: Deltas) -> None:
    moments = np.random.default_rng(0).uniform(0.0, 0.05, size=8)
    for kill, wait_s in enumerate(moments):
        newest, first = deltas.newest, 10 + 10_000 * kill
        command = [sys.executable, "-c", _WRITER, str(deltas.directory), deltas.release_id, deltas.spec_hash]
        command += [str(deltas.num_rows), str(len(STATISTICS)), str(first)]
        with subprocess.Popen(command) as writer:
            while deltas.newest == newest:
                assert writer.poll() is None
                time.sleep(0.001)
            time.sleep(wait_s)
            writer.send_signal(signal.SIGKILL)
        release = Release.open(release_dir)
        assert release.delta == deltas.newest > newest
        values = release.stage1.statistics.values
        assert (values == values[0, 0, 0]).all()
        assert release.stage1.statistics.ticks_at_ms[0] == int(values[0, 0, 0]) * DAY_MS
