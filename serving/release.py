"""The release: one directory that holds all that an answer depends on, and a manifest that proves it.

Owns its manifest and opening it with every hash checked, with the item aggregates of a delta in the place of its own.
It is the unit of registration, promotion, hot swap and rollback.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.spec import FeatureSpec
from ranking.runtime.calibration import Calibration
from serving.deltas import Delta, Deltas, deltas_dir
from serving.durable import hash_file, sync_tree
from serving.errors import DeltaRefused, ReleaseDamaged, SpecMismatch
from serving.item_filter import ItemFilter
from serving.retrieval import Stage1
from towers.index.snapshot import Snapshot

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

MANIFEST_FILE, POPULAR_FILE, TITLES_FILE = "manifest.json", "popular.json", "titles.json"
RANKER_FILE, ITEM_STATES_FILE, CALIBRATION_FILE = "ranker.onnx", "item_states.npy", "calibration.json"


@dataclass(frozen=True)
class Release:
    """An opened release; nothing in it changes.

    Attributes:
        stage1: all that retrieval reads.
        popular_item_ids: most popular first, for the fallback.
        titles: what a person calls each item.
        item_states: [R, Si, W] texts of items as the ranker has read them beforehand; None where it reads none so.
        calibration: which probability a score of the ranker stands for; None where it has none.
        delta: number of the delta whose item aggregates it has; 0 as built.
        changes: number of the last change of items that it has (live_items.py); 0 as built.
        followed_by: id of the release that has taken its changes over; it takes none any more.
    """

    path: Path
    release_id: str
    manifest: Mapping[str, Any]
    stage1: Stage1
    popular_item_ids: list[str]
    titles: Mapping[str, str]
    item_states: NDArray[np.int8] | None = None
    calibration: Calibration | None = None
    delta: int = 0
    changes: int = 0
    followed_by: str | None = None

    @classmethod
    def open(cls, path: Path, *, delta: int | None = None) -> "Release":
        """Check every file against the manifest, then read.

        Args:
            path: of the release.
            delta: which one to apply, 0 for none; without it the current one, or the newest whole one before it.

        Raises:
            ReleaseDamaged: the manifest or a file is missing, or a file has another hash.
            SpecMismatch: the manifest was written for another feature spec.
            DeltaRefused: the delta that was asked for cannot be applied.
        """
        path = path.resolve()
        manifest = verify(path)
        stage1 = Stage1.read(path)
        if stage1.spec.hash != manifest["spec_hash"]:
            raise SpecMismatch(
                f"{path}: the manifest names feature spec {manifest['spec_hash']} but feature_spec.json has "
                f"{stage1.spec.hash}; export the release again: scripts/export_release.py"
            )
        built = cls(
            path=path,
            release_id=manifest["release_id"],
            manifest=manifest,
            stage1=stage1,
            popular_item_ids=json.loads((path / POPULAR_FILE).read_text(encoding="utf-8")),
            titles=json.loads((path / TITLES_FILE).read_text(encoding="utf-8")),
            item_states=read_item_states(path),
            calibration=Calibration.read(path / CALIBRATION_FILE) if (path / CALIBRATION_FILE).is_file() else None,
        )
        if delta is None:
            return built._with_newest()
        return built.with_delta(built.deltas.read(delta)) if delta else built

    def with_delta(self, delta: Delta, *, ticked: Callable[[FloatArray], Snapshot] | None = None) -> "Release":
        """The same release with the item aggregates of a later tick.

        Args:
            delta: of the tick.
            ticked: as for `Stage1.as_of`.

        Raises:
            DeltaRefused: it is no later than what the release has.
        """
        if delta.number <= self.delta or delta.tick_at_ms <= self.tick_at_ms:
            raise DeltaRefused(
                f"{self.path}: expected a delta after {self.delta} of a tick after {self.tick_at_ms}; got delta "
                f"{delta.number} of tick {delta.tick_at_ms}; to go back, open the release anew at that delta"
            )
        return replace(self, stage1=self.stage1.as_of(delta.statistics, ticked=ticked), delta=delta.number)

    @property
    def deltas(self) -> Deltas:
        """Where its deltas are read and written."""
        return Deltas(
            directory=deltas_dir(self.path, self.release_id),
            release_id=self.release_id,
            spec_hash=self.spec.hash,
            num_rows=self.stage1.statistics.values.shape[1],
        )

    def _with_newest(self) -> "Release":
        """With the current delta; if that is refused, with the newest one before it that is not."""
        deltas = self.deltas
        try:
            newest = deltas.newest
        except DeltaRefused as error:
            logger.error("no delta is applied: %s", error)
            newest = 0
        for number in range(newest, 0, -1):
            try:
                return self.with_delta(deltas.read(number))
            except DeltaRefused as error:
                logger.error("delta %d is left out: %s", number, error)
        return self

    @property
    def spec(self) -> FeatureSpec:
        """Spec of the features it was trained for."""
        return self.stage1.spec

    @property
    def tick_at_ms(self) -> int:
        """When the tick of its item aggregates finished."""
        return int(self.stage1.statistics.ticks_at_ms[-1])

    @property
    def item_ids(self) -> tuple[str, ...]:
        """All items it can recommend."""
        return self.stage1.catalogue.item_ids

    def recommends(self, item_ids: Sequence[str], only: ItemFilter | None = None) -> NDArray[np.bool_]:
        """Whether each item may be in an answer: it is known, was recommendable, is not gone, and passes the filter."""
        return (only or ItemFilter()).passing(self.stage1, self.stage1.catalogue.rows(item_ids))

    @property
    def ranker_path(self) -> Path:
        """The ranker's ONNX file."""
        return self.path / RANKER_FILE


def read_item_states(directory: Path) -> NDArray[np.int8] | None:
    """Mapped, not copied, so that instances share them; None where there are none."""
    path = directory / ITEM_STATES_FILE
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) if path.is_file() else None


def verify(path: Path) -> dict[str, Any]:
    """The manifest, after checking every file that it names."""
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise ReleaseDamaged(
            f"{manifest_path} is missing: {path} is not a release; export one: scripts/export_release.py"
        )
    try:
        manifest: dict[str, Any] = json.loads(manifest_path.read_text(encoding="utf-8"))
        files, got_id, _ = dict(manifest["files"]), manifest["release_id"], manifest["spec_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseDamaged(
            f"{manifest_path} is not a readable manifest ({error}); export the release again"
        ) from error
    expected_id = _release_id(files)
    if got_id != expected_id:
        raise ReleaseDamaged(
            f"{manifest_path} is damaged: the files that it names make release {expected_id} but it says {got_id}; "
            "restore it or export again"
        )
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise ReleaseDamaged(f"{file} is missing; its sha256 should be {expected}; restore it or export again")
        got = hash_file(file)
        if got != expected:
            raise ReleaseDamaged(f"{file} is damaged: its sha256 should be {expected} but is {got}; restore it")
    return manifest


def seal(directory: Path, *, facts: Mapping[str, Any]) -> str:
    """Write the manifest of a directory that holds everything else; whoever made it then renames it into place.

    Args:
        directory: not yet visible to anybody else.
        facts: what the manifest says besides hashes: spec_hash, embedding_space_hash, metrics, data window, commit.

    Returns:
        The release id: 16 digits of the hash over all files' hashes, so equal content has an equal id.
    """
    files = {
        str(file.relative_to(directory)): hash_file(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / MANIFEST_FILE
    }
    release_id = _release_id(files)
    manifest = {"release_id": release_id, **facts, "files": files}
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    sync_tree(directory)
    logger.info("release %s: %d files", release_id, len(files))
    return release_id


def _release_id(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
