"""Resumable steps: a directory of results that is made once for each state of its inputs.

Owns fingerprints, skipping, the lock on a directory, and the rename that makes a result visible. Knows nothing of what
a step computes.

    <directory>/step.json             the record of a finished step
    .<name>.partial/                  what a step is filling; kept when it is killed, for the next run
    .<name>.partial.fingerprint       for which state of the inputs
    .<name>.former/                   the result that is being replaced
"""

import fcntl
import hashlib
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

STEP_FILE = "step.json"
SOURCE_ROOT = Path(__file__).resolve().parent.parent
# The libraries that compute a result are part of what makes it.
LIBRARIES = "requirements/cpu.lock"


class MissingInput(Exception):  # named after what is wrong
    """A step needs the result of another one that has not run, or that belongs to another run."""


class Occupied(Exception):  # named after what is wrong
    """Another process works in the same directory."""


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: what the user knows it by.
        directory: where its result lies once it is whole.
        config: every setting that changes the result, as plain values.
        inputs: directories of the steps that it reads.
        sources: files and folders, from the root of the repository, whose code makes the result.
        outputs: what else it leaves outside `directory`; a step whose outputs are gone is done again.
    """

    name: str
    directory: Path
    config: Mapping[str, Any]
    inputs: Sequence[Path]
    sources: Sequence[str]
    outputs: Sequence[Path] = ()

    def fingerprint(self) -> str:
        """Hash of settings, inputs and code.

        Raises:
            MissingInput: an input directory holds no finished step, or one made from other inputs than now lie there.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        for directory in self.inputs:
            digest.update(checked_step(directory)["fingerprint"].encode())
        for source in (*self.sources, LIBRARIES):
            digest.update(source_hash(source))
        return digest.hexdigest()

    def run(self, work: Callable[[Path], None]) -> bool:
        """Do the work unless its result is there already; returns whether it was done.

        `work` gets a directory to fill. If it is killed, the directory stays and the next run gets it again, provided
        that nothing changed in between, so that work which keeps checkpoints goes on from the last.

        Raises:
            MissingInput: see `fingerprint`.
            Occupied: another process runs a step in this directory.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self._beside("lock")):
            self._restore()
            fingerprint = self.fingerprint()
            if self._is_done(fingerprint):
                logger.info("%s: nothing changed, result is in %s", self.name, self.directory)
                return False
            partial = self._prepared(fingerprint)
            logger.info("%s: running", self.name)
            started = time.perf_counter()
            work(partial)
            seconds = time.perf_counter() - started
            self._finish(partial, fingerprint=fingerprint, seconds=seconds)
            logger.info("%s: done in %.1f s, result is in %s", self.name, seconds, self.directory)
        return True

    def _prepared(self, fingerprint: str) -> Path:
        partial, marker = self._beside("partial"), self._beside("partial.fingerprint")
        if not marker.is_file() or marker.read_text() != fingerprint:
            shutil.rmtree(partial, ignore_errors=True)
            marker.write_text(fingerprint)
        partial.mkdir(exist_ok=True)
        return partial

    def _finish(self, partial: Path, *, fingerprint: str, seconds: float) -> None:
        record = {
            "name": self.name,
            "fingerprint": fingerprint,
            "inputs": {str(path.resolve()): read_step(path)["fingerprint"] for path in self.inputs},
            "seconds": seconds,
            "config": self.config,
        }
        (partial / STEP_FILE).write_text(json.dumps(record, indent=2, sort_keys=True, default=str))
        former = self._beside("former")
        shutil.rmtree(former, ignore_errors=True)
        if self.directory.exists():
            self.directory.rename(former)
        partial.rename(self.directory)
        shutil.rmtree(former, ignore_errors=True)
        self._beside("partial.fingerprint").unlink(missing_ok=True)

    def _restore(self) -> None:
        """Undo what a kill between the two renames left: the former result comes back."""
        former = self._beside("former")
        if former.is_dir() and not self.directory.exists():
            former.rename(self.directory)

    def _beside(self, word: str) -> Path:
        return self.directory.with_name(f".{self.directory.name}.{word}")

    def _is_done(self, fingerprint: str) -> bool:
        try:
            same = bool(read_step(self.directory)["fingerprint"] == fingerprint)
        except MissingInput:
            return False
        return same and all(path.exists() for path in self.outputs)


def read_step(directory: Path) -> dict[str, Any]:
    """The record of a finished step."""
    try:
        record: dict[str, Any] = json.loads((directory / STEP_FILE).read_text())
    except (OSError, ValueError) as error:
        raise MissingInput(
            f"{directory} holds no finished step; run the step that makes it, or all: scripts/run_pipeline.py"
        ) from error
    return record


def checked_step(directory: Path) -> dict[str, Any]:
    """The record of a finished step whose own inputs have not changed since."""
    record = read_step(directory)
    for path, fingerprint in record["inputs"].items():
        if read_step(Path(path))["fingerprint"] != fingerprint:
            raise MissingInput(
                f"{directory} was made from another {path} than lies there now; run {record['name']} again, or all: "
                "scripts/run_pipeline.py"
            )
    return record


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file as long as the block runs; the kernel frees it however the process ends.

    Raises:
        Occupied: another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(f"another process holds {path}; wait for its end, or name another folder") from None
        yield


@cache
def source_hash(source: str) -> bytes:
    """Hash of a file or a folder's files, taken once a process: code edited under a run is not what made its result."""
    path = SOURCE_ROOT / source
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if _is_source(file))
    if not files:
        raise FileNotFoundError(f"a step names the source {path}, which does not exist")
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(SOURCE_ROOT)).encode() + file.read_bytes())
    return digest.digest()


def source_commit() -> str:
    """The commit of the code, with a mark where files differ from it; "unknown" outside a repository."""
    try:
        command = ["git", "-C", str(SOURCE_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _is_source(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts
