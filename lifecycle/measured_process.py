"""What a command took: time, processor time and memory of a process of its own.

Owns starting it, watching its memory and ending it at a limit. Knows nothing of what it does. Linux only.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05

WELL, OUT_OF_TIME, OUT_OF_MEMORY, FAILED = "well", "out of time", "out of memory", "failed"


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        ended: `well`, `out of time`, `out of memory` (both at the given limits) or `failed`.
        wall_s: from its start to its end.
        cpu_s: of all its threads, in user and system mode; what is to be compared on a machine that has other work.
        peak_bytes: the most memory it held at once (resident), as seen until POLL_S before its end.
    """

    ended: str
    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure(command: Sequence[str], *, cwd: Path, log: Path, timeout_s: float, memory_bytes: int) -> Measured:
    """Run a command to its end, or to a limit.

    Args:
        command: program and arguments.
        cwd: where it runs.
        log: what it prints goes there.
        timeout_s: it is killed when it has taken so long.
        memory_bytes: it is killed when it holds more.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, peak, ended = time.perf_counter(), 0, ""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                peak = max(peak, peak_bytes(process.pid))
                if not ended and time.perf_counter() - started > timeout_s:
                    ended = OUT_OF_TIME
                elif not ended and peak > memory_bytes:
                    ended = OUT_OF_MEMORY
                if ended:
                    os.kill(process.pid, signal.SIGKILL)
                time.sleep(POLL_S)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    return Measured(
        ended=ended or (WELL if process.returncode == 0 else FAILED),
        wall_s=time.perf_counter() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=peak,
    )


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held at once so far, resident; 0 if it is gone."""
    # Not ru_maxrss of wait4: a child's begins at what its parent held when it was started.
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0
