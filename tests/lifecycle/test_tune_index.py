"""From towers and an index of any type to a chosen one, as files that build_index takes."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.steps import MissingInput
from lifecycle.tune_index import IndexTuning
from towers.errors import GoalsNotMet, UnfitPieces
from towers.index.tune import Goals

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def tuning(smoke_run: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol) -> IndexTuning:
    demo = smoke_run / "demo"
    return IndexTuning(
        dataset=smoke_dataset,
        protocol=leave_one_out,
        towers_dir=demo / "towers",
        index_dir=demo / "index",
        goals=Goals(recall=0.9, k=20, latency_ms=1e6, memory_gb=1.0),
        max_queries=120,
        forecast_factor=10,
        seed=1,
    )


def test_a_choice_is_written_with_its_curve_and_a_forecast(tuning: IndexTuning, tmp_path: Path) -> None:
    page = tuning.run(tmp_path)
    document = json.loads((tmp_path / "tuning.json").read_text())
    assert document["unseen_queries"]["recall"] >= 0.9
    assert document["chosen"]["low"] >= 0.9
    assert document["forecast"]["num_items"] == 10 * document["chosen"]["num_items"]
    assert document["forecast"]["num_bytes"] > 5 * document["chosen"]["num_bytes"]
    assert "forecast, not measured" in page
    table = pd.read_csv(tmp_path / "curve.csv")
    assert table[table["on_curve"]]["is_chosen"].sum() == 1
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")

    composed, steps = (importlib.import_module(name) for name in ("composed", "composed_steps"))
    cfg = composed.OmegaConf.create({"index": {}, "index_choice": str(tmp_path)})
    builder = composed.build(steps.index_of(cfg))
    items = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    assert len(builder.build(items, np.arange(100) + 2)) == 100


def test_a_folder_without_a_choice_is_refused(tmp_path: Path) -> None:
    steps = importlib.import_module("composed_steps")
    cfg = steps.OmegaConf.create({"index": {}, "index_choice": str(tmp_path)})
    with pytest.raises(MissingInput, match=r"choice\.yaml is missing; scripts/tune_index\.py writes it"):
        steps.index_of(cfg)


def test_goals_that_cannot_be_met_write_nothing(tuning: IndexTuning, tmp_path: Path) -> None:
    impossible = replace(tuning, goals=replace(tuning.goals, memory_gb=1e-6))
    with pytest.raises(GoalsNotMet, match="Nearest: of this recall the smallest is"):
        impossible.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_queries_are_refused(tuning: IndexTuning, tmp_path: Path) -> None:
    with pytest.raises(UnfitPieces, match="tuned on 40 held-out queries at least; got"):
        replace(tuning, max_queries=10).run(tmp_path)
