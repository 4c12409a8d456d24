"""A seed decides a training bit by bit, and so it does when the process is killed on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

SCRIPT = Path(__file__).with_name("small_training.py")
ROOT = SCRIPT.parents[2]
KILLED_AT = 29  # of 40 steps, in the middle of the fourth epoch of 8


class Trained(NamedTuple):
    directory: Path
    steps: Any
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def whole(small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("exact") / "whole" / "fold"
    return Trained(directory, *small_training.train(directory))


@pytest.fixture(scope="module")
def resumed(small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("exact") / "killed" / "fold"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(directory), str(KILLED_AT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert (directory / "last.ckpt").is_file()
    return Trained(directory, *small_training.train(directory))


def test_the_same_seed_gives_the_same_losses_bit_by_bit(whole: Trained, small_training: Any, tmp_path: Path) -> None:
    again, metrics = small_training.train(tmp_path / "towers" / "fold")
    assert len(again.losses) == 40
    assert again.losses == whole.steps.losses
    assert again.weights == whole.steps.weights
    assert metrics == whole.metrics


def test_another_seed_gives_other_losses(whole: Trained, small_training: Any, tmp_path: Path) -> None:
    other, _ = small_training.train(tmp_path / "towers" / "fold", seed=2)
    assert not set(other.losses.values()) & set(whole.steps.losses.values())


def test_a_killed_training_goes_on_from_its_last_whole_epoch(resumed: Trained) -> None:
    assert list(resumed.steps.losses) == list(range(25, 41))


def test_a_killed_training_has_the_losses_that_it_would_have_had(whole: Trained, resumed: Trained) -> None:
    assert resumed.steps.losses == {step: loss for step, loss in whole.steps.losses.items() if step > 24}


def test_a_killed_training_ends_in_the_state_in_which_it_would_have_ended(whole: Trained, resumed: Trained) -> None:
    assert "objective.shared.samplers.0.newest" in resumed.steps.weights
    assert resumed.steps.weights == whole.steps.weights
    assert resumed.steps.optimiser == whole.steps.optimiser
    assert resumed.metrics == whole.metrics


def test_a_killed_training_has_the_curves_of_all_its_epochs(whole: Trained, resumed: Trained) -> None:
    curves = [pd.read_csv(trained.directory / "curves" / "curves.csv") for trained in (whole, resumed)]
    assert curves[0]["epoch"].tolist() == [1, 2, 3, 4, 5]
    pd.testing.assert_frame_equal(*curves)
    losses = [float.fromhex(whole.steps.losses[step]) for step in range(33, 41)]
    assert curves[0]["train/epoch_loss"].iloc[-1] == pytest.approx(sum(losses) / 8, rel=1e-6)
