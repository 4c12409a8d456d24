"""Preparations by several systems, measured over the same files.

Owns the order of the runs: in turn, so that what else the machine does falls on all of them.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifecycle.measured_process import measure
from lifecycle.replicated_log import ReplicatedLog

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "python"  # as a program, it is the interpreter that runs this


@dataclass(frozen=True)
class Plan:
    """How systems are measured.

    Attributes:
        systems: a command by name; `{folder}`, `{name}` and `{out_dir}` in it are the log's and the system's own.
        runs: of each system.
        most_events: by system, the longest log that it is given.
        timeout_s: a run that takes longer is ended.
        memory_bytes: one that holds more is ended.
        out_dir: a folder of each system, emptied before each run, and a log of what it last printed.
    """

    systems: Mapping[str, Sequence[str]]
    runs: int
    most_events: Mapping[str, float]
    timeout_s: float
    memory_bytes: int
    out_dir: Path

    def measured(self, log: ReplicatedLog) -> Iterator[dict[str, object]]:
        """One row a run, with the columns of growth.COLUMNS."""
        for run in range(self.runs):
            for system, command in self.systems.items():
                if log.num_events > self.most_events.get(system, float("inf")):
                    continue
                out_dir = self.out_dir.absolute() / system
                shutil.rmtree(out_dir, ignore_errors=True)
                places = {"folder": log.folder.absolute(), "name": log.folder.name, "out_dir": out_dir}
                found = measure(
                    with_interpreter([part.format(**places) for part in command]),
                    cwd=ROOT,
                    log=out_dir.with_suffix(f".{log.folder.name}.log"),
                    timeout_s=self.timeout_s,
                    memory_bytes=self.memory_bytes,
                )
                yield {
                    "system": system,
                    "num_events": log.num_events,
                    "run": run,
                    "ended": found.ended,
                    "wall_s": round(found.wall_s, 2),
                    "cpu_s": round(found.cpu_s, 2),
                    "peak_gb": round(found.peak_bytes / 1e9, 3),
                }


def with_interpreter(command: Sequence[str]) -> list[str]:
    """The command, whose program may be PYTHON."""
    program, *arguments = command
    return [sys.executable if program == PYTHON else program, *arguments]
