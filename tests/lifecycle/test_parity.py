import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from safetensors.torch import load_file

from evaluation.errors import ParityFailed
from features.dataset import Dataset
from features.online_store import OnlineStore
from features.statistics import ItemStatistics
from features.transforms import QueryFeatures, RankerInputs
from lifecycle.cuts import REFIT
from lifecycle.parity import Scorer, export_parity, transform_parity
from lifecycle.train_ranker import STUDENT
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from ranking.export import load_ranker
from ranking.model import Ranker
from serving.pipeline import Pipeline
from towers.export import WEIGHTS_FILE
from towers.model import ItemTable, TowerSizes, TwoTower

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def places(smoke_dataset: Dataset) -> NDArray[np.int64]:
    """Twelve test events: more than one batch of the server."""
    return smoke_dataset.events.places(["test"])[::80][:12]


def scorer(ranker: Ranker) -> Scorer:
    def score(inputs: RankerInputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores: NDArray[np.float32] = ranker(
                torch.from_numpy(inputs.tokens), torch.from_numpy(inputs.dense)
            ).numpy()
        return scores

    return score


@pytest.fixture
def ranker(smoke_run: Path) -> Ranker:
    """What the release's ranker was exported from; a test may change it."""
    return load_ranker(smoke_run / "demo" / "ranker" / STUDENT)


@pytest.fixture
def towers(smoke_run: Path, smoke_config: dict[str, Any], smoke_pipeline: Pipeline) -> TwoTower:
    """What the release's towers were exported from; a test may change it."""
    directory, stage1 = smoke_run / "demo" / "towers" / "refit", smoke_pipeline.release.stage1
    text_embeddings = np.load(directory / TEXT_EMBEDDINGS_FILE)
    towers: TwoTower = instantiate(smoke_config["towers"])(
        sizes=TowerSizes.of(stage1.spec, stage1.vocabularies, text_width=text_embeddings.shape[1]),
        item_table=ItemTable(items=stage1.items, text_embeddings=text_embeddings),
    )
    towers.load_state_dict(load_file(directory / WEIGHTS_FILE))
    return towers


class AlteredStore:
    """An online store that gives other features than it holds."""

    def __init__(self, store: OnlineStore, **changes: Any) -> None:
        self.store, self.changes = store, changes

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        features, known = self.store.read(query_ids, requested_at_ms=requested_at_ms)
        changed = {name: change(getattr(features, name)) for name, change in self.changes.items()}
        return dataclasses.replace(features, **changed), known


def test_the_log_and_the_online_store_give_the_same_arrays_and_ids(
    smoke_pipeline: Pipeline, smoke_dataset: Dataset, smoke_store: OnlineStore, places: NDArray[np.int64]
) -> None:
    report = transform_parity(smoke_pipeline, dataset=smoke_dataset, store=smoke_store, places=places, k=10)
    report.check(float_tolerance=0.0)
    compared = {field.name: field.num_compared for field in report.fields}
    assert compared["recommended_ids"] == 12 * 10
    assert compared["history_rows"] == 12 * 20
    assert set(compared) >= {"history_values", "history_age_days", "categories", "numbers", "seen_rows"}
    assert set(compared) >= {"candidate_rows", "ranker_tokens", "ranker_dense"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        # a store that is an event behind
        (
            {
                name: lambda rows: [row[:-1] for row in rows]
                for name in ("history_item_ids", "history_values", "history_at_ms")
            },
            "history_rows",
        ),
        ({"history_at_ms": lambda rows: [[at_ms - 3_600_000 for at_ms in row] for row in rows]}, "history_age_days"),
        ({"history_values": lambda rows: [[value + 1.0 for value in row] for row in rows]}, "history_values"),
        ({"categories": lambda rows: [row[::-1] for row in rows]}, "categories"),
        ({"numbers": lambda rows: [[number + 1.0 for number in row] for row in rows]}, "numbers"),
    ],
    ids=["an event behind", "an hour late", "other values", "swapped columns", "a year older"],
)
def test_a_store_that_gives_anything_else_does_not_pass(
    smoke_pipeline: Pipeline,
    smoke_dataset: Dataset,
    smoke_store: OnlineStore,
    places: NDArray[np.int64],
    changes: dict[str, Any],
    field: str,
) -> None:
    store = AlteredStore(smoke_store, **changes)
    report = transform_parity(smoke_pipeline, dataset=smoke_dataset, store=store, places=places, k=10)  # type: ignore[arg-type]
    with pytest.raises(ParityFailed, match=f"  {field}: "):
        report.check(float_tolerance=1e-4)


def test_the_exported_models_give_what_the_trained_ones_do(
    smoke_pipeline: Pipeline, smoke_dataset: Dataset, towers: TwoTower, ranker: Ranker, places: NDArray[np.int64]
) -> None:
    queries = smoke_dataset.before(places, length=None)
    report = export_parity(smoke_pipeline, towers=towers, score=scorer(ranker), queries=queries)
    report.check(float_tolerance=1e-4)
    assert [field.name for field in report.fields] == [
        "item_embedding",
        "query_embedding",
        "ranker_score",
        "retrieved_rows",
    ]


@pytest.mark.parametrize("part", ["query_tower", "item_tower", "ranker"])
def test_weights_that_were_not_exported_do_not_pass(
    smoke_pipeline: Pipeline,
    smoke_dataset: Dataset,
    towers: TwoTower,
    ranker: Ranker,
    places: NDArray[np.int64],
    part: str,
) -> None:
    changed = ranker if part == "ranker" else getattr(towers, part)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.05)
    queries = smoke_dataset.before(places, length=None)
    report = export_parity(smoke_pipeline, towers=towers, score=scorer(ranker), queries=queries)
    fields = {"query_tower": "query_embedding", "item_tower": "item_embedding", "ranker": "ranker_score"}
    with pytest.raises(ParityFailed, match=rf"between trained and onnxruntime:[\s\S]*  {fields[part]}: "):
        report.check(float_tolerance=1e-4)


def test_aggregates_of_another_day_than_the_releases_do_not_pass(
    smoke_pipeline: Pipeline, smoke_dataset: Dataset, smoke_store: OnlineStore, places: NDArray[np.int64]
) -> None:
    stage1 = smoke_pipeline.release.stage1
    stale = dataclasses.replace(
        stage1.statistics,
        values=ItemStatistics.at_requests(
            smoke_dataset.days(REFIT.splits),
            requested_at_ms=stage1.statistics.ticks_at_ms - stage1.spec.tick_ms,
            tick_ms=stage1.spec.tick_ms,
        ).values,
    )
    release = dataclasses.replace(smoke_pipeline.release, stage1=dataclasses.replace(stage1, statistics=stale))
    pipeline = Pipeline(release=release, models=smoke_pipeline.models, settings=smoke_pipeline.settings)
    report = transform_parity(pipeline, dataset=smoke_dataset, store=smoke_store, places=places, k=10)
    with pytest.raises(ParityFailed, match="  ranker_dense: "):
        report.check(float_tolerance=1e-4)


def test_the_gates_of_a_run_compared_what_they_should(smoke_run: Path, smoke_config: dict[str, Any]) -> None:
    printed = (smoke_run / "output.txt").read_text()
    num_events = smoke_config["parity_events"]
    assert f"parity of the transforms, {num_events} events" in printed
    assert f"recommended_ids: {10 * num_events} compared, 0 differ" in printed
    assert "retrieved_rows: 2500 compared, 0 differ" in printed
    assert json.loads((smoke_run / "demo" / "release" / "manifest.json").read_text())["release_id"] in printed
