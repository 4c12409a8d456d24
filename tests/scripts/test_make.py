from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("setup", "demo", "serve", "test", "check", "test-full", "test-gpu", "bench", "doctor", "locks", "clean")
# A make that started these tests hands its own flags down; a test's make must not take them up.
VARIABLES = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=dict(VARIABLES)
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the Makefile and without environments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    return tmp_path


def test_make_alone_lists_every_target_with_a_line_of_help() -> None:
    listed = [line.split()[0] for line in make().stdout.splitlines() if line.startswith("  ")]
    assert listed == ["help", *TARGETS]


def test_every_target_of_the_makefile_has_a_line_of_help() -> None:
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert set(phony.split()[1:]) == {"help", *TARGETS}


@pytest.mark.parametrize("target", ["check", "serve", "bench", "locks"])
def test_a_target_that_sets_nothing_up_says_when_set_up_is_missing(bare: Path, target: str) -> None:
    answer = make(target, folder=bare)
    assert answer.returncode != 0
    assert "is missing: run make setup first" in answer.stderr


def test_a_python_that_is_not_there_is_named_with_what_to_install(bare: Path) -> None:
    answer = make("setup", "PYTHON=python9.9", folder=bare)
    assert answer.returncode != 0
    assert "python9.9 does not run" in answer.stderr
    assert "apt-get install python3.11" in answer.stderr


def test_the_tests_are_run_after_set_up_and_checks_and_without_a_demo() -> None:
    plan = make("--dry-run", "test").stdout
    steps = [
        "scripts/setup_env.py",
        "ruff check",
        "ruff format",
        "mypy --strict",
        "lint-imports",
        "check_locks",
        "pytest",
    ]
    positions = [plan.index(step) for step in steps]
    assert positions == sorted(positions)
    assert "run_pipeline" not in plan


def test_set_up_hands_its_variables_on() -> None:
    plan = make("--dry-run", "setup", "ACCELERATOR=cpu", "TORCH_INDEX=https://torch.example", "SIDES=train").stdout
    assert '--accelerator cpu --torch-index "https://torch.example" --sides train' in plan
    for target in ("setup", "demo", "test", "test-full"):
        assert '--extras "spark"' in make("--dry-run", target, "EXTRAS=spark").stdout


def test_gpu_tests_refuse_to_start_without_a_gpu(bare: Path) -> None:
    (bare / ".venv" / "bin").mkdir(parents=True)
    (bare / ".venv" / "bin" / "python").touch(mode=0o755)
    fake = bare / "no-gpu"
    fake.mkdir()
    (fake / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (fake / "nvidia-smi").chmod(0o755)
    answer = make("test-gpu", f"PATH={fake}:{os.environ['PATH']}", folder=bare)
    assert answer.returncode != 0
    assert "lists no GPU here" in answer.stderr


def test_clean_leaves_environments_and_outputs(bare: Path) -> None:
    kept = [bare / ".venv" / "__pycache__", bare / "outputs" / "__pycache__"]
    gone = [bare / "features" / "__pycache__", bare / ".mypy_cache", bare / "build"]
    for folder in [*kept, *gone]:
        folder.mkdir(parents=True)
    assert make("clean", folder=bare).returncode == 0
    assert [folder.exists() for folder in kept] == [True, True]
    assert [folder.exists() for folder in gone] == [False, False, False]


def test_ci_runs_make_test_last_and_with_the_extras_that_its_tests_need() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "make test EXTRAS=spark,scann"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
