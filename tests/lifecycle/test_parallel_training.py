"""Two ranks on a CPU do what two GPUs would: `trainer=ddp`."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lifecycle.entry import LIBRARY_CHATTER

pytestmark = pytest.mark.slow  # ranks are processes, and each loads torch


@pytest.fixture(autouse=True)
def _quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in LIBRARY_CHATTER:
            warnings.filterwarnings("ignore", message=message)
        yield


@pytest.fixture
def untrained(small_training: Any) -> dict[str, Any]:
    """By one rank; what is drawn to begin with stays."""
    optimisation = replace(small_training.small_training().optimisation, learning_rate=0.0, weight_decay=0.0)
    return {"optimisation": optimisation}


@pytest.fixture
def two_ranks(small_training: Any) -> dict[str, Any]:
    return {"build_trainer": partial(small_training.small_training().build_trainer, devices=2, strategy="ddp_spawn")}


def test_both_cuts_are_trained_by_two_ranks(
    small_training: Any, two_ranks: dict[str, Any], untrained: dict[str, Any], tmp_path: Path
) -> None:
    before = small_training.small_training(**untrained).tried(tmp_path / "untrained")
    small_training.small_training(**two_ranks).run(tmp_path)
    fold, refit = (json.loads((tmp_path / cut / "training.json").read_text()) for cut in ("fold", "refit"))
    assert fold["validation/ndcg@10"] > before["validation/ndcg@10"] + 0.1
    assert 1 <= fold["epochs"] == refit["epochs"]


def test_two_ranks_validate_every_request_once(small_training: Any, two_ranks: dict[str, Any], tmp_path: Path) -> None:
    untrained = {
        "optimisation": replace(small_training.small_training().optimisation, learning_rate=0.0, weight_decay=0.0)
    }
    one = small_training.small_training(**untrained).tried(tmp_path / "one")
    two = small_training.small_training(**untrained, **two_ranks).tried(tmp_path / "two")
    assert two == pytest.approx(one)
