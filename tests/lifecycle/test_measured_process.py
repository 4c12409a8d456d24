import sys
import time
from pathlib import Path

import pytest

from lifecycle.measured_process import FAILED, OUT_OF_MEMORY, OUT_OF_TIME, WELL, Measured, measure

GB = 10**9


def run(tmp_path: Path, program: str, *, timeout_s: float = 60.0, memory_bytes: int = GB) -> Measured:
    return measure(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        log=tmp_path / "run.log",
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
    )


def test_a_process_that_sleeps_takes_time_and_no_processor(tmp_path):
    found = run(tmp_path, "import time; print('slept'); time.sleep(0.5)")
    assert found.ended == WELL
    assert found.wall_s >= 0.5
    assert found.cpu_s < 0.5
    assert (tmp_path / "run.log").read_text() == "slept\n"


def test_the_peak_is_that_of_the_process_alone_even_when_it_is_over(tmp_path):
    held_here = bytearray(300_000_000)  # what this process holds must not count
    found = run(tmp_path, "import time; held = bytearray(100_000_000); del held; time.sleep(0.3)")
    assert 100_000_000 <= found.peak_bytes < 250_000_000 < len(held_here)


def test_a_process_beyond_a_limit_is_ended_and_the_limit_is_named(tmp_path):
    started = time.perf_counter()
    assert run(tmp_path, "import time; time.sleep(60)", timeout_s=0.3).ended == OUT_OF_TIME
    much = "import time; held = bytearray(200_000_000); time.sleep(60)"
    assert run(tmp_path, much, memory_bytes=150_000_000).ended == OUT_OF_MEMORY
    assert time.perf_counter() - started < 30


def test_a_process_that_fails_says_so_and_why_in_its_log(tmp_path):
    assert run(tmp_path, "raise SystemExit('no such file')").ended == FAILED
    assert "no such file" in (tmp_path / "run.log").read_text()


def test_a_program_that_is_not_there_is_an_error_and_no_measurement(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such_program"):
        measure(["no_such_program"], cwd=tmp_path, log=tmp_path / "run.log", timeout_s=1.0, memory_bytes=GB)
