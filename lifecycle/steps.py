"""Resumable steps: a directory of results that is made once for each state of its inputs.

Owns fingerprints, skipping, and the rename that makes a result visible. Knows nothing of what a step computes.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

STEP_FILE = "step.json"
SOURCE_ROOT = Path(__file__).resolve().parent.parent


class MissingInput(Exception):
    """A step needs the result of another one that has not run."""


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: what the user knows it by; the script has the same stem.
        directory: where its result lies once it is whole.
        config: every setting that changes the result, as plain values.
        inputs: directories of the steps that it reads.
        rooms: packages whose code makes the result; editing them makes it stale.
    """

    name: str
    directory: Path
    config: Mapping[str, Any]
    inputs: Sequence[Path]
    rooms: Sequence[str]

    def fingerprint(self) -> str:
        """Hash of settings, inputs and code.

        Raises:
            MissingInput: an input directory holds no finished step.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        for directory in self.inputs:
            digest.update(read_step(directory)["fingerprint"].encode())
        for room in self.rooms:
            for file in sorted((SOURCE_ROOT / room).rglob("*.py")):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def run(self, work: Callable[[Path], None]) -> bool:
        """Do the work unless its result is there already; returns whether it was done.

        `work` gets a directory to fill. If it is killed, the directory stays and the next run gets it again, provided
        that nothing changed in between, so that work which keeps checkpoints goes on from the last.
        """
        fingerprint = self.fingerprint()
        if self._is_done(fingerprint):
            logger.info("%s: nothing changed, result is in %s", self.name, self.directory)
            return False
        partial = self.directory.with_name(f".{self.directory.name}.partial")
        marker = partial.with_name(f"{partial.name}.fingerprint")
        if not marker.is_file() or marker.read_text() != fingerprint:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            marker.write_text(fingerprint)
        logger.info("%s: running", self.name)
        started = time.perf_counter()
        work(partial)
        seconds = time.perf_counter() - started
        marker.unlink()
        record = {"name": self.name, "fingerprint": fingerprint, "seconds": seconds, "config": self.config}
        (partial / STEP_FILE).write_text(json.dumps(record, indent=2, sort_keys=True, default=str))
        former = self.directory.with_name(f".{self.directory.name}.former")
        shutil.rmtree(former, ignore_errors=True)
        if self.directory.exists():
            self.directory.rename(former)
        partial.rename(self.directory)
        shutil.rmtree(former, ignore_errors=True)
        logger.info("%s: done in %.1f s, result is in %s", self.name, seconds, self.directory)
        return True

    def _is_done(self, fingerprint: str) -> bool:
        try:
            return bool(read_step(self.directory)["fingerprint"] == fingerprint)
        except MissingInput:
            return False


def read_step(directory: Path) -> dict[str, Any]:
    """The record of a finished step."""
    try:
        record: dict[str, Any] = json.loads((directory / STEP_FILE).read_text())
    except (OSError, ValueError) as error:
        raise MissingInput(
            f"{directory} holds no finished step; run the step that makes it, or all: scripts/run_pipeline.py"
        ) from error
    return record
