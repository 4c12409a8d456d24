import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from safetensors.torch import load_file

from evaluation.errors import ParityFailed
from features.dataset import Dataset
from lifecycle.export_parity import embedder_parity, export_parity, scorer_of, with_ties_as
from lifecycle.train_ranker import STUDENT
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from ranking.decomposed import DecomposedRanker
from ranking.export import load_ranker
from ranking.model import Ranker
from serving.item_embedder import MAX_TOKENS, TEXT_ENCODER_FILE
from serving.pipeline import Pipeline
from towers.export import WEIGHTS_FILE
from towers.model import ItemTable, TowerSizes, TwoTower

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def places(smoke_dataset: Dataset) -> NDArray[np.int64]:
    """Twelve test events: more than one batch of the server."""
    return smoke_dataset.events.places(["test"])[::80][:12]


@pytest.fixture
def ranker(smoke_run: Path) -> Ranker | DecomposedRanker:
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


def test_the_exported_models_give_what_the_trained_ones_do(
    smoke_pipeline: Pipeline,
    smoke_dataset: Dataset,
    towers: TwoTower,
    ranker: Ranker | DecomposedRanker,
    places: NDArray[np.int64],
) -> None:
    queries = smoke_dataset.before(places, length=None)
    report = export_parity(smoke_pipeline, towers=towers, score=scorer_of(ranker), queries=queries)
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
    ranker: Ranker | DecomposedRanker,
    places: NDArray[np.int64],
    part: str,
) -> None:
    # Of the ranker what no text goes through: of changed texts the scorer would say so itself.
    changed = ranker.joint if part == "ranker" else getattr(towers, part)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.05)
    queries = smoke_dataset.before(places, length=None)
    report = export_parity(smoke_pipeline, towers=towers, score=scorer_of(ranker), queries=queries)
    fields = {"query_tower": "query_embedding", "item_tower": "item_embedding", "ranker": "ranker_score"}
    with pytest.raises(ParityFailed, match=rf"between trained and onnxruntime:[\s\S]*  {fields[part]}: "):
        report.check(float_tolerance=1e-4)


def test_items_that_come_again_while_serving_are_those_of_the_release(
    smoke_pipeline: Pipeline, smoke_dataset: Dataset
) -> None:
    report = embedder_parity(smoke_pipeline.release, items=smoke_dataset.items, num_items=100, seed=2)
    report.check(float_tolerance=1e-4)
    compared = {field.name: field.num_compared for field in report.fields}
    tables = ("item_id", "categories", "numbers", "title_tokens", "text_tokens")
    assert set(compared) == {"learned", "text", "states", *(f"inputs.{name}" for name in tables)}
    assert (compared["inputs.item_id"], compared["learned"]) == (100, 100 * 16)
    assert compared["states"] >= 100 * 32


@pytest.mark.parametrize(("file", "field"), [(TEXT_ENCODER_FILE, "learned"), ("vocabularies.json", "inputs.item_id")])
def test_items_embedded_by_something_else_do_not_pass(
    smoke_pipeline: Pipeline, smoke_dataset: Dataset, tmp_path: Path, file: str, field: str
) -> None:
    release = dataclasses.replace(
        smoke_pipeline.release, path=Path(shutil.copytree(smoke_pipeline.release.path, tmp_path / "release"))
    )
    if file == TEXT_ENCODER_FILE:
        model = onnx.load(release.path / file)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {MAX_TOKENS: "4"})  # two words of a text
        onnx.save(model, release.path / file)
    else:
        content = json.loads((release.path / file).read_text())
        content["categories"]["item_id"].reverse()
        (release.path / file).write_text(json.dumps(content))
    report = embedder_parity(release, items=smoke_dataset.items, num_items=50, seed=2)
    with pytest.raises(ParityFailed, match=rf"between released and embedded:[\s\S]*  {field}: "):
        report.check(float_tolerance=1e-4)


def test_the_gates_of_a_run_compared_what_they_should(smoke_run: Path, smoke_config: dict[str, Any]) -> None:
    printed = (smoke_run / "output.txt").read_text()
    num_events = smoke_config["parity_events"]
    assert f"history_rows: {num_events} events compared, 0 differ" in printed
    assert f"ranker_dense.item_count_7d: {num_events} events compared, 0 differ" in printed
    assert f"recommended_ids: {num_events} events compared, 0 differ" in printed
    assert f"recommended_scores: {num_events} events compared, 0 differ" in printed
    assert f"recommended_probabilities: {num_events} events compared, 0 differ" in printed
    # 64 requests with the 50 candidates each that this run ranks
    assert "retrieved_rows: 3200 compared, 0 differ" in printed
    assert "inputs.item_id: 256 compared, 0 differ" in printed
    assert "learned: 4096 compared" in printed
    assert json.loads((smoke_run / "demo" / "release" / "manifest.json").read_text())["release_id"] in printed


def test_items_that_score_alike_may_change_places_and_no_others() -> None:
    items = np.array([[0.0], [0.0], [3.0], [2.0], [2.00001], [1.0]], dtype=np.float32)
    queries = np.ones((2, 1), dtype=np.float32)
    trained = np.array([[2, 4, 3], [2, 4, 3]])
    # Rows 3 and 4 are 1e-5 apart, and may stand either way; row 5 in the place of 3 scores 1 less.
    exported = np.array([[2, 3, 4], [2, 4, 5]])
    found = with_ties_as(exported, trained, queries=queries, items=items)
    assert found.tolist() == [[2, 3, 4], [2, 4, 3]]
