"""A request followed through the real server: gateway, gRPC, Triton, pipeline and back, and what breaks on the way."""

import dataclasses
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from features.transforms import QueryFeatures
from serving.client import AsyncRecommendClient, RecommendClient
from serving.errors import ServerFailed
from serving.fallback import PopularityFallback
from serving.gateway import create_app
from serving.model_repository import build_model_repository
from serving.pipeline import Pipeline
from serving.release import verify
from serving.served_log import ServedLog, features_of, read_served_log
from serving.settings import GatewaySettings, Instances, ServedLogSettings, TritonSettings
from serving.triton import TritonServer


class OneQuery:
    """An online store that knows the query `q`."""

    def __init__(self, *, queries: QueryFeatures, spec_hash: str) -> None:
        self.spec_hash = spec_hash
        self._queries = queries

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        one = {field.name: getattr(self._queries, field.name)[:1] for field in dataclasses.fields(QueryFeatures)}
        return QueryFeatures(**{**one, "requested_at_ms": requested_at_ms}), [query_ids == ["q"]]


@pytest.fixture
def served_log_path(tmp_path: Path) -> Path:
    return tmp_path / "served.jsonl"


def gateway(address: str, *, pipeline: Pipeline, queries: QueryFeatures, served_log_path: Path) -> TestClient:
    release = pipeline.release
    return TestClient(
        create_app(
            GatewaySettings(release_dir=release.path, online_store_dir=Path("unused"), deadline_ms=30_000.0),
            features=OneQuery(queries=queries, spec_hash=release.spec.hash),
            engine=AsyncRecommendClient(address=address),
            fallback=PopularityFallback(item_ids=release.popular_item_ids),
            release=lambda: pipeline.release,
            served_log=ServedLog(settings=ServedLogSettings(path=served_log_path)),
        )
    )


def ask(client: TestClient, **changes: Any) -> dict[str, Any]:
    response = client.post("/v1/recommend", json={"query_id": "q", "k": 5, "requested_at_ms": 10**12} | changes)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_request_goes_through_gateway_triton_and_pipeline_and_back(
    release_server: TritonServer, pipeline: Pipeline, queries: QueryFeatures, served_log_path: Path
) -> None:
    with gateway(
        release_server.grpc_address, pipeline=pipeline, queries=queries, served_log_path=served_log_path
    ) as client:
        assert client.get("/healthz").json()["engine_ready"]
        answer = ask(client)
        assert ask(client, query_id="nobody")["fallback_reason"] == "unknown_query"
        assert client.post("/v1/recommend", json={"query_id": "q", "k": 0}).json()["error"]["field"] == "k"

    assert (answer["source"], answer["release_id"]) == ("model", pipeline.release.release_id)
    assert answer["items"][0]["title"] == pipeline.release.titles[answer["items"][0]["item_id"]]
    # What was served can be made again from what was logged.
    logged, _ = read_served_log(served_log_path)
    again = pipeline.recommend(features_of(logged), k=5, with_candidates=True)
    assert [item["item_id"] for item in answer["items"]] == again.item_ids[0]
    assert [item["score"] for item in answer["items"]] == pytest.approx(again.scores[0].tolist(), abs=1e-5)
    assert [item_id for item_id, _ in logged["answer"]["candidates"]] == again.candidate_ids[0]


@pytest.fixture(scope="module")
def bls_server(
    tiny_release: Path, triton_settings: TritonSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    work_dir = tmp_path_factory.mktemp("bls")
    settings = dataclasses.replace(triton_settings, models="bls")
    build_model_repository(release_dir=tiny_release, repository_dir=work_dir / "models", settings=settings)
    with TritonServer(settings=settings, repository_dir=work_dir / "models", work_dir=work_dir) as server:
        yield server


def test_models_called_inside_triton_give_the_same_answer(
    bls_server: TritonServer, pipeline: Pipeline, queries: QueryFeatures
) -> None:
    with RecommendClient(address=bls_server.grpc_address, deadline_s=30.0) as client:
        got = client.recommend(queries, k=10, spec_hash=pipeline.release.spec.hash)

    wanted = pipeline.recommend(queries, k=10)
    for answer, item_ids, scores in zip(got, wanted.item_ids, wanted.scores, strict=True):
        assert [item.item_id for item in answer.items] == item_ids
        assert [item.score for item in answer.items] == pytest.approx(scores.tolist(), abs=1e-5)


def test_the_fallback_answers_while_triton_is_away_and_the_model_when_it_is_back(
    bls_server: TritonServer, pipeline: Pipeline, queries: QueryFeatures, served_log_path: Path
) -> None:
    port = int(bls_server.grpc_address.split(":")[1])
    back = TritonServer(
        settings=dataclasses.replace(bls_server.settings, grpc_port=port),
        repository_dir=bls_server.repository_dir,
        work_dir=bls_server.work_dir / "back",
    )
    with gateway(
        bls_server.grpc_address, pipeline=pipeline, queries=queries, served_log_path=served_log_path
    ) as client:
        assert ask(client)["source"] == "model"
        assert bls_server.pid is not None
        os.kill(bls_server.pid, signal.SIGKILL)

        away = ask(client)
        assert (away["source"], away["fallback_reason"]) == ("fallback", "model_unavailable")
        assert len(away["items"]) == 5
        assert client.get("/healthz").json()["status"] == "degraded"

        bls_server.stop()  # also what the killed server left: its stubs, its shared memory
        with back:
            deadline = time.monotonic() + 20.0
            while ask(client)["source"] != "model" and time.monotonic() < deadline:
                time.sleep(0.1)
            assert ask(client)["source"] == "model"


def test_a_release_damaged_after_its_repository_was_built_does_not_load(
    tiny_release: Path, triton_settings: TritonSettings, tmp_path: Path
) -> None:
    shutil.copytree(tiny_release, tmp_path / "release")
    settings = dataclasses.replace(triton_settings, instances=Instances(recommend=1))
    build_model_repository(release_dir=tmp_path / "release", repository_dir=tmp_path / "models", settings=settings)
    damaged = tmp_path / "release" / "arrays" / "item_embeddings.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    expected = verify(tiny_release)["files"]["arrays/item_embeddings.npy"]

    with pytest.raises(ServerFailed, match=rf"failed to load 'recommend'.*{re.escape(str(damaged))}.*{expected}"):
        TritonServer(settings=settings, repository_dir=tmp_path / "models", work_dir=tmp_path).start()
