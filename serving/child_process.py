"""Child processes that never outlive their parent.

Owns starting a process in a session of its own, waiting for it to be ready, and ending it politely, then surely.
Knows nothing of what the process does. `guard.py` is what ties the child's life to the parent's.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.errors import ServerFailed

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.05


def start(
    command: Sequence[str], *, env: Mapping[str, str], log_path: Path, working_dir: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a file and that dies with this process.

    The kernel watches the *thread* that starts the child: call this from one that lives as long as the child shall.

    Args:
        command: the program and its arguments.
        env: the child's whole environment; nothing is inherited.
        log_path: gets stdout and stderr; an existing file is replaced.
        working_dir: where the child runs; by default where this process does.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    guarded = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *command]
    with log_path.open("wb") as log:
        return subprocess.Popen(
            guarded,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=working_dir,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child in order
        )


def stop(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a child that `start` started: SIGTERM, and after `grace_s` SIGKILL to its whole session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            pass
        except BaseException:  # a second Ctrl-C: no more patience, still no orphan
            _kill_session(process)
            raise
    _kill_session(process)  # what the child itself left behind


def wait_until(is_ready: Callable[[], bool], *, process: subprocess.Popen[bytes], deadline_s: float, name: str) -> None:
    """Poll until ready.

    Raises:
        ServerFailed: the process ended first, or the deadline passed.
    """
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"{name} ended with exit code {process.returncode} before it was ready")
        if is_ready():
            return
        time.sleep(POLL_S)
    raise ServerFailed(f"{name} was not ready within {deadline_s:g} s")


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # start_new_session made the child the leader of a group of that id
    except ProcessLookupError:
        pass
    process.wait()
