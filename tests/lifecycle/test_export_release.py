import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import read_report
from features.dataset import Dataset
from features.spec import DAY_MS
from features.stores.online_store import OnlineStore
from lifecycle.build_index import embedding_space_hash
from lifecycle.cuts import REFIT
from lifecycle.export_release import TRAINING_ONLY, Export, copy_stage1
from serving.release import Release
from serving.settings import PipelineSettings
from towers.text_encoder import TextEncoder

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def release(smoke_run: Path) -> Release:
    return Release.open(smoke_run / "demo" / "release")


@pytest.fixture
def build_export(smoke_run: Path, smoke_dataset: Dataset) -> Callable[..., Export]:
    """The export of the run, with changes; its gates must not be reached."""

    def refuse(**sizes: Any) -> Any:
        raise AssertionError("the gates were reached")

    def build(**changes: Any) -> Export:
        demo = smoke_run / "demo"
        given: dict[str, Any] = {
            "dataset": smoke_dataset,
            "data_dir": demo / "data",
            "towers_dir": demo / "towers",
            "index_dir": demo / "index",
            "ranker_dir": demo / "ranker",
            "ranker": "student",
            "build_towers": refuse,
            "text_encoder": TextEncoder(checkpoint="", cache_dir=None),
            "report": {},
            "settings": PipelineSettings(num_ranked=50),
            "parity_events": 5,
            "seed": 1,
        }
        return Export(**{**given, **changes})

    return build


def test_a_release_holds_nothing_that_only_training_needs(release: Release) -> None:
    assert not set(TRAINING_ONLY) & {path.name for path in release.path.rglob("*")}
    assert not list(release.path.rglob("*.ckpt"))


def test_the_manifest_says_what_it_was_made_of(release: Release, smoke_run: Path, smoke_dataset: Dataset) -> None:
    demo, manifest = smoke_run / "demo", release.manifest
    events = smoke_dataset.events
    known = events.at_ms[events.places(REFIT.splits)]
    assert manifest["data_window_ms"] == [known.min(), known.max()]
    assert manifest["spec_hash"] == release.spec.hash
    assert manifest["embedding_space_hash"] == embedding_space_hash(demo / "towers" / "refit", demo / "index", REFIT)
    assert (manifest["dataset"], manifest["ranker"]) == ("movielens100k", "student")
    report = read_report(demo / "evaluation" / "report.json")
    assert manifest["metrics"]["fused_student"]["ndcg@10"] == report.systems["fused_student"]["ndcg@10"].value
    files = {str(path.relative_to(release.path)) for path in release.path.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json", "step.json"}


def test_the_models_are_those_that_were_trained(release: Release, smoke_run: Path) -> None:
    demo = smoke_run / "demo"
    for name, source in (
        ("query_tower.onnx", demo / "towers" / "refit" / "query_tower.onnx"),
        ("item_tower.onnx", demo / "towers" / "refit" / "item_tower.onnx"),
        ("ranker.onnx", demo / "ranker" / "student" / "ranker.onnx"),
        ("index.faiss", demo / "index" / "refit.faiss"),
    ):
        assert (release.path / name).read_bytes() == source.read_bytes()


def test_popular_items_are_those_of_the_last_month(release: Release, smoke_dataset: Dataset) -> None:
    events = smoke_dataset.events
    known = [(events.item_ids[place], events.at_ms[place] // DAY_MS) for place in events.places(REFIT.splits)]
    tick = max(day for _, day in known) + 1
    recent = Counter(item_id for item_id, day in known if day >= tick - 30)
    all_time = Counter(item_id for item_id, _ in known)
    popular = release.popular_item_ids
    order = [(recent[item_id], all_time[item_id]) for item_id in popular]
    assert order == sorted(order, reverse=True)
    assert len(set(popular)) == len(popular) == 1000
    assert popular[0] == max(all_time, key=lambda item_id: (recent[item_id], all_time[item_id]))


def test_every_item_has_its_title(release: Release, smoke_dataset: Dataset) -> None:
    assert dict(release.titles) == dict(zip(smoke_dataset.items.catalogue.item_ids, smoke_dataset.titles, strict=True))


def test_a_ranker_that_is_not_there_is_refused_by_what_there_is(build_export: Callable[..., Export]) -> None:
    with pytest.raises(ValueError, match="release_ranker: expected one of student, gradient_boosting; got 'teacher'"):
        build_export(ranker="teacher")


def test_an_index_of_another_embedding_space_is_refused(
    build_export: Callable[..., Export], smoke_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(smoke_run / "demo" / "index", tmp_path / "index")
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    facts["refit"]["embedding_space_hash"] = "0123456789abcdef"
    (tmp_path / "index" / "index.json").write_text(json.dumps(facts))
    (tmp_path / "release").mkdir()
    with pytest.raises(ValueError, match=r"embedding space 0123456789abcdef .*scripts/build_index\.py"):
        build_export(index_dir=tmp_path / "index").run(tmp_path / "release")
    assert not (tmp_path / "release" / "manifest.json").exists()


def test_a_ranker_that_learnt_on_other_lists_is_not_released(
    build_export: Callable[..., Export], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="learnt on lists of 50"):
        build_export(settings=PipelineSettings(num_ranked=100)).run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_online_store_has_every_querys_state_before_its_test_event(
    smoke_store: OnlineStore, smoke_dataset: Dataset, release: Release
) -> None:
    events = smoke_dataset.events
    places = events.places(["test"])
    query_ids = [events.query_ids[query] for query in events.query_of(places)]
    offline = smoke_dataset.before(places, length=None)
    online, known = smoke_store.read(query_ids, requested_at_ms=offline.requested_at_ms)
    assert all(known)
    assert smoke_store.spec_hash == release.spec.hash
    for field in dataclasses.fields(offline):
        assert getattr(online, field.name) == getattr(offline, field.name), field.name


def test_what_only_training_reads_stays_behind_and_an_array_of_its_name_does_not(tmp_path: Path) -> None:
    for name in (*TRAINING_ONLY, "query_tower.onnx", "arrays/text_embeddings.npy"):
        (tmp_path / "towers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "towers" / name).write_text("content")
    copy_stage1(tmp_path / "towers", tmp_path / "release")
    copied = {path.relative_to(tmp_path / "release") for path in (tmp_path / "release").rglob("*") if path.is_file()}
    assert copied == {Path("query_tower.onnx"), Path("arrays/text_embeddings.npy")}
