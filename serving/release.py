"""The release: one directory that holds all that an answer depends on, and a manifest that proves it.

Owns its manifest and opening it with every hash checked. It is the unit of registration, promotion,
hot swap and rollback.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.spec import FeatureSpec
from serving.errors import ReleaseDamaged, SpecMismatch
from serving.retrieval import Stage1

logger = logging.getLogger(__name__)

MANIFEST_FILE, POPULAR_FILE, TITLES_FILE, RANKER_FILE = "manifest.json", "popular.json", "titles.json", "ranker.onnx"


@dataclass(frozen=True)
class Release:
    """An opened release; nothing in it changes.

    Attributes:
        stage1: all that retrieval reads.
        popular_item_ids: most popular first, for the fallback.
        titles: what a person calls each item.
        delta: number of the last small change applied to item features; 0 as built.
    """

    path: Path
    release_id: str
    manifest: Mapping[str, Any]
    stage1: Stage1
    popular_item_ids: list[str]
    titles: Mapping[str, str]
    delta: int = 0

    @classmethod
    def open(cls, path: Path) -> "Release":
        """Check every file against the manifest, then read.

        Raises:
            ReleaseDamaged: the manifest or a file is missing, or a file has another hash.
            SpecMismatch: the manifest was written for another feature spec.
        """
        path = path.resolve()
        manifest = verify(path)
        stage1 = Stage1.read(path)
        if stage1.spec.hash != manifest["spec_hash"]:
            raise SpecMismatch(
                f"{path}: the manifest names feature spec {manifest['spec_hash']} but feature_spec.json has "
                f"{stage1.spec.hash}; export the release again: scripts/export_release.py"
            )
        return cls(
            path=path,
            release_id=manifest["release_id"],
            manifest=manifest,
            stage1=stage1,
            popular_item_ids=json.loads((path / POPULAR_FILE).read_text(encoding="utf-8")),
            titles=json.loads((path / TITLES_FILE).read_text(encoding="utf-8")),
        )

    @property
    def spec(self) -> FeatureSpec:
        """Spec of the features it was trained for."""
        return self.stage1.spec

    @property
    def item_ids(self) -> tuple[str, ...]:
        """All items it can recommend."""
        return self.stage1.catalogue.item_ids

    @property
    def ranker_path(self) -> Path:
        """The ranker's ONNX file."""
        return self.path / RANKER_FILE


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    _sync_tree(directory)
    logger.info("release %s: %d files", release_id, len(files))
    return release_id


def _release_id(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def _sync_tree(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
