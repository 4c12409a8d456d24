"""The release of the main job behind a real Triton and a real gateway: what it answers and what it refuses."""

import dataclasses
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from features.dataset import Dataset
from features.stores.online_store import OnlineStore
from features.transforms import QueryFeatures
from lifecycle.ask import Ask, held_out_asks
from lifecycle.serve import Addresses, ServeSettings
from serving.client import RecommendClient
from serving.errors import InvalidRequest, ServerFailed
from serving.model_repository import build_model_repository
from serving.pipeline import Pipeline
from serving.release import verify
from serving.triton import TritonServer

pytestmark = pytest.mark.timeout(600)

Run = Callable[..., subprocess.CompletedProcess[str]]
Naming = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def asks(smoke_dataset: Dataset) -> list[Ask]:
    """Twenty queries at the time of their test event."""
    return held_out_asks(smoke_dataset)[::45][:20]


@pytest.fixture(scope="module")
def bls_address(
    smoke_run: Path, smoke_serving: ServeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Triton with the towers and the ranker as models of their own, called by `recommend`."""
    work_dir = tmp_path_factory.mktemp("bls")
    settings = dataclasses.replace(smoke_serving.triton, models="bls")
    build_model_repository(
        release_dir=smoke_run / "demo" / "release", repository_dir=work_dir / "models", settings=settings
    )
    with TritonServer(settings=settings, repository_dir=work_dir / "models", work_dir=work_dir) as server:
        yield server.grpc_address


@pytest.fixture(params=["inprocess", "bls"])
def grpc_address(request: pytest.FixtureRequest, served: Addresses) -> str:
    return str(served.grpc) if request.param == "inprocess" else str(request.getfixturevalue("bls_address"))


def test_triton_answers_what_the_pipeline_in_this_process_does(
    grpc_address: str, asks: list[Ask], smoke_store: OnlineStore, smoke_pipeline: Pipeline
) -> None:
    with RecommendClient(address=grpc_address, deadline_s=30.0) as client:
        for ask in asks:
            features, known = smoke_store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])
            assert known == [True]
            wanted = smoke_pipeline.recommend(features, k=10)
            answer = client.recommend(features, k=10, spec_hash=smoke_store.spec_hash)[0]
            assert [item.item_id for item in answer.items] == wanted.item_ids[0]
            assert [item.score for item in answer.items] == pytest.approx(wanted.scores[0].tolist(), abs=1e-5)
            assert [item.retrieval_rank for item in answer.items] == wanted.retrieval_ranks[0].tolist()
            np.testing.assert_allclose([item.probability for item in answer.items], wanted.probabilities[0], atol=1e-5)
            assert answer.release_id == smoke_pipeline.release.release_id


def test_over_http_a_query_alone_gets_the_same_answer(
    served: Addresses, asks: list[Ask], smoke_store: OnlineStore, smoke_pipeline: Pipeline
) -> None:
    for ask in asks[:5]:
        features, _ = smoke_store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])
        wanted = smoke_pipeline.recommend(features, k=10)
        reply = post(served, query_id=ask.query_id, k=10, requested_at_ms=ask.requested_at_ms).json()
        assert (reply["source"], reply["fallback_reason"]) == ("model", None)
        assert [item["item_id"] for item in reply["items"]] == wanted.item_ids[0]
        assert [item["score"] for item in reply["items"]] == pytest.approx(wanted.scores[0].tolist(), abs=1e-5)
        np.testing.assert_allclose([item["probability"] for item in reply["items"]], wanted.probabilities[0], atol=1e-5)
        titles = smoke_pipeline.release.titles
        assert [item["title"] for item in reply["items"]] == [titles[item_id] for item_id in wanted.item_ids[0]]


def test_an_unknown_query_gets_popular_items_marked_as_fallback(served: Addresses, smoke_pipeline: Pipeline) -> None:
    reply = post(served, query_id="nobody", k=5).json()
    assert (reply["source"], reply["fallback_reason"]) == ("fallback", "unknown_query")
    assert [item["item_id"] for item in reply["items"]] == smoke_pipeline.release.popular_item_ids[:5]


def test_the_gateway_says_that_it_is_well(served: Addresses, smoke_pipeline: Pipeline) -> None:
    health = httpx.get(f"http://{served.http}/healthz", timeout=30.0).json()
    assert (health["status"], health["release_id"]) == ("ok", smoke_pipeline.release.release_id)


@pytest.mark.parametrize("k", [0, 10_000])
def test_a_length_out_of_bounds_is_refused_by_its_name_and_the_server_goes_on(
    served: Addresses, asks: list[Ask], smoke_store: OnlineStore, k: int
) -> None:
    features, _ = smoke_store.read([asks[0].query_id], requested_at_ms=[asks[0].requested_at_ms])
    with RecommendClient(address=str(served.grpc), deadline_s=30.0) as client:
        with pytest.raises(InvalidRequest, match=rf"k: expected 1 to 100, got {k}"):
            client.recommend(features, k=k, spec_hash=smoke_store.spec_hash)
        assert len(client.recommend(features, k=7, spec_hash=smoke_store.spec_hash)[0].items) == 7
    refused = post(served, query_id=asks[0].query_id, k=k)
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "k"
    assert len(post(served, query_id=asks[0].query_id, k=7).json()["items"]) == 7


def test_an_unknown_item_in_a_history_is_no_failure(
    served: Addresses, asks: list[Ask], smoke_store: OnlineStore, smoke_pipeline: Pipeline
) -> None:
    features, _ = smoke_store.read([asks[0].query_id], requested_at_ms=[asks[0].requested_at_ms])
    history = [*features.history_item_ids[0][:-1], "no such film ü"]
    strange: QueryFeatures = dataclasses.replace(features, history_item_ids=[history])
    with RecommendClient(address=str(served.grpc), deadline_s=30.0) as client:
        answer = client.recommend(strange, k=10, spec_hash=smoke_store.spec_hash)[0]
    wanted = smoke_pipeline.recommend(strange, k=10)
    assert [item.item_id for item in answer.items] == wanted.item_ids[0]
    assert all(math.isfinite(item.score) for item in answer.items)
    # What stands there no more may be shown again, and the newest event is one that nobody knows.
    assert wanted.item_ids[0] != smoke_pipeline.recommend(features, k=10).item_ids[0]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_release_is_not_served_and_the_message_names_file_and_hash(
    smoke_run: Path, run_script: Run, processes_naming: Naming, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(smoke_run / "demo" / "release", tmp_path / "release")
    damaged, expected = damage_ranker(tmp_path / "release", damage)
    done = run_script(
        "serve",
        "serving=demo",
        f"release_dir={tmp_path}/release",
        f"store_dir={smoke_run}/demo/online_store",
        f"work_dir={tmp_path}/serving",
        f"hydra.run.dir={tmp_path}/hydra",
    )
    assert done.returncode == 1
    assert re.search(rf"ReleaseDamaged: {re.escape(str(damaged))} is .*{expected}", done.stdout)
    assert "Traceback" not in done.stdout
    assert processes_naming(tmp_path) == []


def test_triton_itself_refuses_a_release_that_was_damaged_after_its_repository_was_made(
    smoke_run: Path, smoke_serving: ServeSettings, tmp_path: Path
) -> None:
    shutil.copytree(smoke_run / "demo" / "release", tmp_path / "release")
    build_model_repository(
        release_dir=tmp_path / "release", repository_dir=tmp_path / "models", settings=smoke_serving.triton
    )
    damaged, expected = damage_ranker(tmp_path / "release", "changed")
    server = TritonServer(settings=smoke_serving.triton, repository_dir=tmp_path / "models", work_dir=tmp_path)
    with pytest.raises(ServerFailed, match=rf"failed to load 'recommend'[\s\S]*{re.escape(str(damaged))}.*{expected}"):
        server.start()
    assert server.pid is None


def damage_ranker(release_dir: Path, damage: str) -> tuple[Path, str]:
    """Damage a file of a release; returns the file and the hash that it should have."""
    damaged = release_dir / "ranker.onnx"
    expected = str(verify(release_dir)["files"]["ranker.onnx"])
    if damage == "missing":
        damaged.unlink()
    else:
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    return damaged, expected


def post(addresses: Addresses, **body: object) -> httpx.Response:
    return httpx.post(f"http://{addresses.http}/v1/recommend", json=body, timeout=30.0)
