import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from features.dataset import Dataset
from lifecycle.ask import ask_http, held_out_asks
from lifecycle.serve import Addresses, ServeSettings, serve_settings, serving
from lifecycle.steps import Occupied
from serving.errors import SettingsError
from serving.pipeline import Pipeline
from serving.served_log import read_served_log

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def config(smoke_config: dict[str, Any]) -> dict[str, Any]:
    """conf/serving as plain values, to be changed at will."""
    copy: dict[str, Any] = json.loads(json.dumps(smoke_config["serving"]))
    return copy


def test_settings_are_those_of_the_configuration(config: dict[str, Any]) -> None:
    settings = serve_settings(config)
    assert settings.mode == "triton"
    assert (settings.gateway.port, settings.gateway.deadline_ms) == (0, 500.0)
    assert (settings.triton.pipeline.num_candidates, settings.triton.pipeline.num_ranked) == (200, 50)
    assert settings.triton.triton_python == Path(".venv-triton/bin/python")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: c.update(mode="grpc"), "serving.mode"),
        (lambda c: c.update(gatewy={}), "serving.gatewy"),
        (lambda c: c.pop("pipeline"), "serving.pipeline"),
        (lambda c: c["gateway"].update(deadline=5), "serving.gateway.deadline"),
        (lambda c: c["gateway"].update(port="8080"), "serving.gateway.port"),
        (lambda c: c["triton"].update(grpc_port=70_000), "serving.triton.grpc_port"),
        (lambda c: c["triton"]["instances"].update(recommend=0), "serving.triton.instances.recommend"),
        (lambda c: c["pipeline"].update(num_ranked=201), "serving.triton.pipeline.num_ranked"),
    ],
)
def test_a_setting_that_is_wrong_is_named_by_its_path(
    config: dict[str, Any], change: Callable[[dict[str, Any]], None], key: str
) -> None:
    change(config)
    with pytest.raises(SettingsError) as refused:
        serve_settings(config)
    assert refused.value.key == key


@pytest.fixture(scope="module")
def inprocess(
    smoke_run: Path, smoke_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Addresses, Path]]:
    """The gateway alone, with the pipeline in its process."""
    settings = serve_settings(
        {
            **smoke_config["serving"],
            "mode": "inprocess",
            "gateway": {"port": 0, "deadline_ms": 30_000},
        }
    )
    demo, work_dir = smoke_run / "demo", tmp_path_factory.mktemp("inprocess")
    with serving(
        settings,
        release_dir=demo / "release",
        store_dir=demo / "online_store",
        work_dir=work_dir,
    ) as addresses:
        yield addresses, work_dir


def test_in_process_there_is_no_triton(inprocess: tuple[Addresses, Path]) -> None:
    addresses, work_dir = inprocess
    assert addresses.grpc is None
    assert not (work_dir / "triton").exists()
    with urllib.request.urlopen(f"http://{addresses.http}/healthz", timeout=30) as answer:
        assert json.loads(answer.read())["mode"] == "inprocess"


def test_in_process_the_answers_are_those_of_triton(
    inprocess: tuple[Addresses, Path], served: Addresses, smoke_dataset: Dataset
) -> None:
    for ask in held_out_asks(smoke_dataset)[:10]:
        own, wanted = (
            ask_http(ask.query_id, k=10, requested_at_ms=ask.requested_at_ms, http=addresses.http)
            for addresses in (inprocess[0], served)
        )
        assert [item["item_id"] for item in own["items"]] == [item["item_id"] for item in wanted["items"]]
        assert [item["score"] for item in own["items"]] == pytest.approx(
            [item["score"] for item in wanted["items"]], abs=1e-5
        )
        assert own["source"] == wanted["source"] == "model"


def test_what_is_served_is_written_down(inprocess: tuple[Addresses, Path], smoke_pipeline: Pipeline) -> None:
    addresses, work_dir = inprocess
    reply = ask_http("22", k=3, requested_at_ms=None, http=addresses.http)
    log = work_dir / "served.jsonl"
    deadline = time.monotonic() + 20.0  # written behind the answer's back
    while f'"{reply["request_id"]}"' not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    record = next(one for one in read_served_log(log) if one["request_id"] == reply["request_id"])
    assert record["release_id"] == smoke_pipeline.release.release_id
    assert [item["item_id"] for item in reply["items"]] == record["item_ids"]


def test_a_folder_that_a_server_works_in_is_not_another_ones(
    inprocess: tuple[Addresses, Path], smoke_run: Path, smoke_serving: ServeSettings
) -> None:
    demo, (_, work_dir) = smoke_run / "demo", inprocess
    with (
        pytest.raises(Occupied, match=r"another process holds .*/\.lock; wait for its end, or name another folder"),
        serving(smoke_serving, release_dir=demo / "release", store_dir=demo / "online_store", work_dir=work_dir),
    ):
        raise AssertionError("two servers share a folder")
    assert not (work_dir / "triton").exists()


@pytest.mark.slow
def test_what_was_started_ends_when_the_block_fails(
    smoke_run: Path, smoke_serving: ServeSettings, processes_naming: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    demo = smoke_run / "demo"
    with (
        pytest.raises(ZeroDivisionError),
        serving(
            smoke_serving,
            release_dir=demo / "release",
            store_dir=demo / "online_store",
            work_dir=tmp_path,
        ) as addresses,
    ):
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{addresses.http}/healthz", timeout=5)
    assert processes_naming(tmp_path) == []
