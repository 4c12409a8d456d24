"""The directory of an online store: versions, which of them is read, and who may write.

Owns links and the lock. Knows nothing of what a version holds.

    repo_dir/
      .lock                          held by whoever writes
      current -> versions/<name>     replaced in one step, so that a reader sees the old store or the new one, whole
      previous -> versions/<name>    kept for readers that were just opening it
      versions/<name>/
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from features.errors import FeaturesError

CURRENT = "current"
PREVIOUS = "previous"
VERSIONS = "versions"


@contextlib.contextmanager
def one_writer(repo_dir: Path) -> Iterator[None]:
    """Be alone in writing as long as the block runs; FeaturesError if somebody else is."""
    # The kernel frees the lock when its holder ends, however it ends.
    with (repo_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FeaturesError(
                f"expected to be alone in writing {repo_dir}; another process is materialising there, wait for its end"
            ) from None
        yield


def new_version(repo_dir: Path) -> Path:
    """An empty directory for a version, of a name that no other version has, in whatever directory."""
    version = repo_dir / VERSIONS / f"v{uuid.uuid4().hex[:16]}"
    version.mkdir(parents=True)
    return version


def current_version(repo_dir: Path) -> Path:
    """The version that is read.

    Raises:
        FeaturesError: nothing was materialised there.
    """
    try:
        return repo_dir / os.readlink(repo_dir / CURRENT)
    except OSError as error:
        raise FeaturesError(
            f"expected an online store at {repo_dir}; nothing was materialised there ({error.strerror}); run "
            "scripts/export_release.py"
        ) from error


def point_to(repo_dir: Path, version: Path) -> None:
    """Make `version` the current one, and the current one the previous."""
    if (repo_dir / CURRENT).is_symlink():
        _link(repo_dir / PREVIOUS, target=Path(os.readlink(repo_dir / CURRENT)))
    _link(repo_dir / CURRENT, target=Path(VERSIONS) / version.name)


def unread_versions(repo_dir: Path) -> list[Path]:
    """Versions that neither link names: older ones, and those that were never finished."""
    read = {Path(os.readlink(link)).name for name in (CURRENT, PREVIOUS) if (link := repo_dir / name).is_symlink()}
    return sorted(version for version in (repo_dir / VERSIONS).iterdir() if version.name not in read)


def _link(link: Path, *, target: Path) -> None:
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
