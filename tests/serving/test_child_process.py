import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving import child_process
from serving.errors import ServerFailed

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)",
]
ENV = {"PATH": os.environ["PATH"]}


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(") ")[2][0] != "Z"  # a zombie waits for whoever adopted it


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def first_line(path: Path) -> str:
    assert wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text().splitlines()[0]


def test_output_goes_to_the_log_and_nothing_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = "import os, sys; print(sorted(os.environ)); print(os.getcwd(), file=sys.stderr)"
    log_path = tmp_path / "logs" / "log"

    process = child_process.start(
        [sys.executable, "-c", program], env={"A": "1"}, log_path=log_path, working_dir=tmp_path
    )

    assert process.wait(timeout=30) == 0
    assert sorted(log_path.read_text().splitlines()) == sorted(["['A', 'LC_CTYPE']", str(tmp_path)])


def test_a_willing_child_ends_by_sigterm(tmp_path: Path) -> None:
    process = child_process.start(SLEEPER, env=ENV, log_path=tmp_path / "log")
    first_line(tmp_path / "log")

    child_process.stop(process, grace_s=20.0)

    assert process.returncode == -signal.SIGTERM


def test_a_stubborn_child_ends_with_its_own_children(tmp_path: Path) -> None:
    process = child_process.start(STUBBORN, env=ENV, log_path=tmp_path / "log")
    grandchild = int(first_line(tmp_path / "log"))

    child_process.stop(process, grace_s=0.1)

    assert process.returncode == -signal.SIGKILL
    assert wait_until(lambda: not is_running(grandchild))


def test_stopping_what_ended_does_nothing(tmp_path: Path) -> None:
    process = child_process.start([sys.executable, "-c", ""], env=ENV, log_path=tmp_path / "log")
    process.wait(timeout=30)

    child_process.stop(process, grace_s=1.0)

    assert process.returncode == 0


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent_however_that_dies(tmp_path: Path, end: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path / "log"), *SLEEPER], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    first_line(tmp_path / "log")
    assert is_running(child)

    parent.send_signal(end)
    parent.wait(timeout=30)

    assert wait_until(lambda: not is_running(child))


_PARENT = f"""
import os, sys, time
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from serving import child_process
print(child_process.start(sys.argv[2:], env=dict(os.environ), log_path=Path(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""


def test_waiting_ends_when_the_process_does(tmp_path: Path) -> None:
    process = child_process.start([sys.executable, "-c", "raise SystemExit(3)"], env=ENV, log_path=tmp_path / "log")

    with pytest.raises(ServerFailed, match="toy ended with exit code 3 before it was ready"):
        child_process.wait_until(lambda: False, process=process, deadline_s=30.0, name="toy")


def test_waiting_ends_at_its_deadline(tmp_path: Path) -> None:
    process = child_process.start(SLEEPER, env=ENV, log_path=tmp_path / "log")
    try:
        with pytest.raises(ServerFailed, match=r"toy was not ready within 0\.2 s"):
            child_process.wait_until(lambda: False, process=process, deadline_s=0.2, name="toy")
    finally:
        child_process.stop(process, grace_s=5.0)


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    ports = child_process.free_ports(5)

    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))
