import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features.stores.materialize import materialize
from features.stores.offline_store import write_query_states
from features.stores.state_rows import StateColumns
from serving.errors import ServerFailed
from serving.gateway_process import GatewayProcess
from serving.pipeline import Pipeline
from serving.served_log import read_served_log
from serving.settings import GatewaySettings, ServedLogSettings
from serving.triton import TritonServer


@pytest.fixture(scope="module")
def online_store_dir(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that knows the query `q`, whose history is the first two items of the release."""
    directory = tmp_path_factory.mktemp("store")
    spec = pipeline.release.spec
    columns = StateColumns.of(spec)
    events = pa.table(
        {
            "query_id": ["q", "q"],
            "item_id": list(pipeline.release.item_ids[:2]),
            "event": ["rating", "rating"],
            "value": [3.0, 4.0],
            "occurred_at_ms": [1_000, 2_000],
            "position": pa.array([0, 1], pa.int32()),
            "split": ["train", "train"],
        }
    )
    attributes = {name: ["F"] for name in columns.categories} | {name: [30.0] for name in columns.numbers}
    queries = pa.table({"query_id": ["q"]} | attributes)
    write_query_states(directory / "states.parquet", events=events, queries=queries, spec=spec)
    materialize(directory / "online", states=directory / "states.parquet")
    return directory / "online"


@pytest.fixture(scope="module")
def gateway(
    release_server: TritonServer,
    tiny_release: Path,
    online_store_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    work_dir = tmp_path_factory.mktemp("gateway")
    settings = GatewaySettings(
        release_dir=tiny_release,
        online_store_dir=online_store_dir,
        triton_address=release_server.grpc_address,
        port=0,
        deadline_ms=30_000.0,
        served_log=ServedLogSettings(path=work_dir / "served.jsonl"),
    )
    with GatewayProcess(settings=settings, work_dir=work_dir) as process:
        yield process


def post(address: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://{address}/v1/recommend", data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_query_of_the_online_store_is_answered_by_triton_over_http(
    gateway: GatewayProcess, pipeline: Pipeline
) -> None:
    status, answer = post(gateway.address, {"query_id": "q", "k": 3})

    assert (status, answer["source"], answer["release_id"]) == (200, "model", pipeline.release.release_id)
    assert len(answer["items"]) == 3
    assert not {item["item_id"] for item in answer["items"]} & set(pipeline.release.item_ids[:2])  # not its history


def test_unknown_and_bad_requests_are_answered_too(gateway: GatewayProcess) -> None:
    assert post(gateway.address, {"query_id": "nobody"})[1]["fallback_reason"] == "unknown_query"
    assert post(gateway.address, {"query_id": "q", "k": 101})[0] == 422


def test_a_gateway_that_cannot_start_says_why(gateway: GatewayProcess, tmp_path: Path) -> None:
    settings = GatewaySettings(release_dir=tmp_path / "none", online_store_dir=tmp_path, port=0)

    with pytest.raises(ServerFailed, match=re.escape(f"{tmp_path}/none/manifest.json is missing")):
        GatewayProcess(settings=settings, work_dir=tmp_path).start()


def test_sigterm_ends_it_with_its_log_written(gateway: GatewayProcess) -> None:
    pid = gateway.pid
    assert pid is not None
    log = gateway.settings.served_log
    assert log is not None
    post(gateway.address, {"query_id": "q"})

    gateway.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
    assert list(read_served_log(log.path))[-1]["query_id"] == "q"
