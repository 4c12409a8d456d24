"""Release deltas: the item aggregates of a later refresh tick, beside a release that itself never changes.

Owns their layout on disk, writing one so that nobody sees half of it, and reading one with all that it must agree with
checked. Which delta a process serves is follower.py's. Loaded inside Triton: numpy alone.

    <release>.deltas/<release id>/
      000001/                    what a number names never changes
        statistics.npy           [R, F] float32, F as features/statistics.STATISTICS
        manifest.json            number, release, spec, tick, sha256 of the array, hash of the delta before
      000002/ ...
      current -> 000002          replaced in one step; what servers follow

The release's id is part of the path, so that a release exported anew in the same place begins without deltas while a
server that still holds the former one goes on with its own. A delta holds every row, so the newest alone is needed to
serve; earlier ones stay for whoever recomputes what was served with them, and may be removed oldest first.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.statistics import STATISTICS, ItemStatistics
from serving.durable import hash_file, sync, sync_tree
from serving.errors import DeltaRefused

MANIFEST_FILE, STATISTICS_FILE, CURRENT = "manifest.json", "statistics.npy", "current"
_NUMBERED = re.compile(r"\d{6,}")


@dataclass(frozen=True)
class Delta:
    """One delta, read and checked.

    Attributes:
        number: 1 and up, without gaps, within one release.
        hash: of its manifest, and so of everything in it and before it.
        statistics: of its tick alone; the array is mapped, so that instances share it.
    """

    number: int
    hash: str
    statistics: ItemStatistics

    @property
    def tick_at_ms(self) -> int:
        """When its tick finished: it counts the events before this instant."""
        return int(self.statistics.ticks_at_ms[-1])


@dataclass(frozen=True)
class Deltas:
    """The deltas of one release.

    Attributes:
        directory: where they lie, which need not exist.
        release_id: of the release.
        spec_hash: of its FeatureSpec.
        num_rows: of its item table.
    """

    directory: Path
    release_id: str
    spec_hash: str
    num_rows: int

    @property
    def newest(self) -> int:
        """Number that `current` names; 0 while there is none."""
        try:
            name = os.readlink(self.directory / CURRENT)
        except OSError:
            return 0
        if not _NUMBERED.fullmatch(name):
            raise DeltaRefused(f"{self.directory / CURRENT} should name a delta such as 000001; it names {name!r}")
        return int(name)

    @property
    def mark(self) -> tuple[int, int]:
        """Something cheap that is another one whenever `current` was replaced, even by one of the same name."""
        try:
            found = os.lstat(self.directory / CURRENT)
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def path(self, number: int) -> Path:
        """Where a delta lies."""
        return self.directory / f"{number:06d}"

    def read(self, number: int) -> Delta:
        """Read one delta.

        Raises:
            DeltaRefused: it is not there, not whole, of another release, spec or catalogue, or does not follow from
                the delta before it.
        """
        path, manifest_hash = self.path(number), ""
        try:
            content = (path / MANIFEST_FILE).read_bytes()
            manifest_hash = hashlib.sha256(content).hexdigest()
            manifest = json.loads(content)
            wanted = {"number": number, "release_id": self.release_id, "spec_hash": self.spec_hash}
            for key, expected in wanted.items():
                if manifest[key] != expected:
                    raise DeltaRefused(f"{path}: expected {key} {expected}, its manifest has {manifest[key]}")
            self._check_before(number, manifest["previous"])
            expected, got = manifest["sha256"], hash_file(path / STATISTICS_FILE)
            if got != expected:
                raise DeltaRefused(f"{path / STATISTICS_FILE} is damaged: its sha256 should be {expected} but is {got}")
            # asarray drops the memmap subclass, whose every slice is slow, and keeps the mapping.
            values = np.asarray(np.load(path / STATISTICS_FILE, mmap_mode="r", allow_pickle=False))
            self._check_array(path, values, columns=manifest["statistics"])
            tick_at_ms = int(manifest["tick_at_ms"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DeltaRefused(
                f"{path} is no whole delta of release {self.release_id} ({type(error).__name__}: {error}); write it "
                "again: scripts/refresh.py"
            ) from error
        statistics = ItemStatistics(ticks_at_ms=np.array([tick_at_ms]), values=values[None])
        return Delta(number=number, hash=manifest_hash, statistics=statistics)

    def write(self, statistics: ItemStatistics) -> int:
        """Write the next delta and make it the current one; returns its number. One writer at a time.

        Args:
            statistics: of one tick, rows as in the release.

        Raises:
            DeltaRefused: the array is none of this release, or `current` names no delta.
        """
        if len(statistics.values) != 1:
            raise DeltaRefused(f"a delta holds one tick; got {len(statistics.values)}")
        values = np.ascontiguousarray(statistics.values[0])
        number = self.newest + 1
        path, before = self.path(number), self.path(number - 1) / MANIFEST_FILE
        self._check_array(path, values, columns=list(STATISTICS))
        building = path.with_name(f".{path.name}.partial")
        # What a killed writer left, or wrote and never made current.
        for left in (building, path):
            shutil.rmtree(left, ignore_errors=True)
        building.mkdir(parents=True)
        np.save(building / STATISTICS_FILE, values, allow_pickle=False)
        manifest = {
            "number": number,
            "release_id": self.release_id,
            "spec_hash": self.spec_hash,
            "tick_at_ms": int(statistics.ticks_at_ms[0]),
            "statistics": list(STATISTICS),
            "sha256": hash_file(building / STATISTICS_FILE),
            "previous": hash_file(before) if before.is_file() else "",
        }
        (building / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
        sync_tree(building)
        building.rename(path)
        for directory in (self.directory, self.directory.parent, self.directory.parent.parent):
            sync(directory)
        self.point_to(number)
        return number

    def point_to(self, number: int) -> None:
        """Make a delta the current one."""
        fresh = self.directory / f".{CURRENT}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path(number).name)
        fresh.replace(self.directory / CURRENT)
        sync(self.directory)

    def _check_before(self, number: int, expected: str) -> None:
        """The delta before may be gone, for the newest alone serves; if it is there, it is the one that was meant."""
        before = self.path(number - 1) / MANIFEST_FILE
        if before.is_file() and (got := hash_file(before)) != expected:
            raise DeltaRefused(
                f"{self.path(number)} follows a delta whose manifest has the hash {expected or '(none)'}, but that of "
                f"{before.parent} has {got}; it was written beside another copy of the release"
            )

    def _check_array(self, path: Path, values: NDArray[Any], *, columns: list[str]) -> None:
        expected = (self.num_rows, len(STATISTICS))
        if columns != list(STATISTICS) or values.shape != expected or values.dtype != np.float32:
            raise DeltaRefused(
                f"{path}: expected float32 {expected} of {', '.join(STATISTICS)}; got {values.dtype} {values.shape} of "
                f"{', '.join(columns)}"
            )


def deltas_dir(release_dir: Path, release_id: str) -> Path:
    """Where the deltas of a release lie."""
    release_dir = release_dir.resolve()
    return release_dir.with_name(f"{release_dir.name}.deltas") / release_id
