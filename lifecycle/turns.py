"""Trainings in processes of their own, of which one at a time works: so a busy machine is equally busy for all.

Owns the turns, on both sides. A trainee works until its turn is over, says what it did and waits for the next one.
Standard library alone: peers import it with their own interpreters.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lifecycle.measured_process import peak_bytes

MARK = "@turn "  # before what a trainee says; all else that it prints goes to its log
GO = "go\n"


@dataclass(frozen=True)
class Turn:
    """What a trainee did in one turn.

    Attributes:
        num_steps: of the optimiser.
        num_targets: positions or rows whose next item was learnt.
        wall_s: from the turn's begin to the end of its last step.
        cpu_s: of all threads, in user and system mode.
        waited_s: of it for data, where the trainee knows.
        peak_bytes: the most memory that the process has held so far.
    """

    num_steps: int
    num_targets: int
    wall_s: float
    cpu_s: float
    waited_s: float
    peak_bytes: int


class Turns:
    """A trainee's side.

    Args:
        turn_s: a turn ends with the first step that ends later.
    """

    def __init__(self, *, turn_s: float) -> None:
        self.turn_s = turn_s

    def begin(self) -> None:
        """Say that all is prepared, and wait for the first turn."""
        _say({})
        self._wait()

    def step(self, *, num_targets: int, waited_s: float = 0.0) -> None:
        """A step has ended."""
        self._num_steps += 1
        self._num_targets += num_targets
        self._waited_s += waited_s
        if time.perf_counter() - self._began_s >= self.turn_s:
            self._report()
            self._wait()

    def end(self) -> None:
        """Training has ended; what comes after it is a turn of its own."""
        self._report()
        self._wait()

    def _report(self) -> None:
        turn = Turn(
            num_steps=self._num_steps,
            num_targets=self._num_targets,
            wall_s=time.perf_counter() - self._began_s,
            cpu_s=time.process_time() - self._cpu_began_s,
            waited_s=self._waited_s,
            peak_bytes=peak_bytes(os.getpid()),
        )
        _say(asdict(turn))

    def _wait(self) -> None:
        if sys.stdin.readline() != GO:
            raise SystemExit("the turns have ended before the training did")
        self._num_steps, self._num_targets, self._waited_s = 0, 0, 0.0
        self._began_s, self._cpu_began_s = time.perf_counter(), time.process_time()


def _say(content: Mapping[str, float]) -> None:
    print(f"{MARK}{json.dumps(content)}", flush=True)


class TraineeFailed(ChildProcessError):
    """A trainee ended with an error; the message names its log."""


class Trainee:
    """The other side: a training that was started, and works when it is given a turn.

    Args:
        name: for messages.
        command: program and arguments.
        cwd: where it runs.
        log: what it prints goes there.
        num_threads: of its libraries.
    """

    def __init__(self, name: str, command: Sequence[str], *, cwd: Path, log: Path, num_threads: int) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = {f"{library}_NUM_THREADS": str(num_threads) for library in ("OMP", "MKL", "OPENBLAS")}
        self._log_file = log.open("w")
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            # Waiting threads sleep, or those of the trainee before would take this one's cores.
            env={**os.environ, **threads, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(cwd)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            text=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise TraineeFailed(f"{name} was started without pipes")
        self._to, self._from = self._process.stdin, self._process.stdout

    def __enter__(self) -> "Trainee":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._process.wait()
        self._log_file.close()

    def prepare(self) -> None:
        """Wait until it is prepared."""
        if self._heard() is None:
            raise TraineeFailed(f"{self.name} ended before its first turn; see {self.log}")

    def turn(self) -> Turn | None:
        """Give it a turn; None when it has ended well in it.

        Raises:
            TraineeFailed: it ended otherwise.
        """
        with contextlib.suppress(BrokenPipeError):  # then what it ended with says why
            self._to.write(GO)
            self._to.flush()
        heard = self._heard()
        return None if heard is None else Turn(**heard)

    def _heard(self) -> dict[str, Any] | None:
        for line in self._from:
            before, mark, content = line.partition(MARK)
            self._log_file.write(before)
            if mark:
                heard: dict[str, Any] = json.loads(content)
                return heard
        if self._process.wait() != 0:
            raise TraineeFailed(f"{self.name} ended with code {self._process.returncode}; see {self.log}")
        return None
