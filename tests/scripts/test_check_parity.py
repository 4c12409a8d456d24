"""What a real Triton and a real gateway served, before and after a refresh, checked by the script."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.dataset import Dataset
from features.spec import DAY_MS
from lifecycle.ask import Ask, held_out_asks
from lifecycle.serve import Addresses, ServeSettings, serving
from serving.release import Release
from serving.settings import Instances

pytestmark = pytest.mark.timeout(600)

Run = Callable[..., subprocess.CompletedProcess[str]]
NUM_ASKS = 24


@dataclasses.dataclass(frozen=True)
class Served:
    """A release that was served, refreshed and served on, and all that its gateway answered."""

    folder: Path
    replies: list[dict[str, Any]]
    health: list[dict[str, Any]]
    refreshes: list[str]

    @property
    def log(self) -> Path:
        return self.folder / "serving" / "served.jsonl"


def ask_all(addresses: Addresses, asks: list[Ask]) -> list[dict[str, Any]]:
    """Four at a time, so that Triton has requests to put together."""

    def ask(one: Ask) -> dict[str, Any]:
        body = {"query_id": one.query_id, "k": 10, "requested_at_ms": one.requested_at_ms}
        reply = httpx.post(f"http://{addresses.http}/v1/recommend", json=body, timeout=60.0).raise_for_status()
        content: dict[str, Any] = reply.json()
        return content

    with ThreadPoolExecutor(max_workers=4) as threads:
        return list(threads.map(ask, asks))


@pytest.fixture(scope="module")
def served(
    smoke_run: Path,
    smoke_dataset: Dataset,
    smoke_serving: ServeSettings,
    run_script: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Served:
    demo, folder = smoke_run / "demo", tmp_path_factory.mktemp("checked")
    for name in ("release", "online_store"):
        shutil.copytree(demo / name, folder / name, symlinks=True)
    two = dataclasses.replace(smoke_serving.triton, instances=Instances(recommend=2), queue_delay_us=2_000)
    settings = dataclasses.replace(smoke_serving, triton=two)
    asks = held_out_asks(smoke_dataset)[::35][:NUM_ASKS]
    # Three days after the log's end: a tick later than the release's own.
    until_at_ms = int(smoke_dataset.events.at_ms.max()) + 3 * DAY_MS

    def refresh() -> str:
        done = run_script(
            "refresh",
            "experiment=smoke",
            f"data_dir={demo}/data",
            f"release_dir={folder}/release",
            f"store_dir={folder}/online_store",
            f"until_at_ms={until_at_ms}",
            f"hydra.run.dir={folder}/hydra",
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    with serving(
        settings, release_dir=folder / "release", store_dir=folder / "online_store", work_dir=folder / "serving"
    ) as addresses:

        def health() -> dict[str, Any]:
            content: dict[str, Any] = httpx.get(f"http://{addresses.http}/healthz", timeout=60.0).json()
            return content

        replies, healths = ask_all(addresses, asks), [health()]
        refreshes = [refresh(), refresh()]
        replies, healths = replies + ask_all(addresses, asks), [*healths, health()]
    return Served(folder=folder, replies=replies, health=healths, refreshes=refreshes)


def check(served: Served, smoke_run: Path, run_script: Run, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run_script(
        "check_parity",
        "experiment=smoke",
        "serving=demo",
        f"data_dir={smoke_run}/demo/data",
        f"release_dir={served.folder}/release",
        f"hydra.run.dir={served.folder}/hydra",
        *overrides,
    )


def test_a_refresh_is_taken_up_by_the_running_server_and_shown(served: Served) -> None:
    assert {reply["source"] for reply in served.replies} == {"model"}
    assert [reply["delta"] for reply in served.replies] == [0] * NUM_ASKS + [1] * NUM_ASKS
    assert [one["delta"] for one in served.health] == [0, 1]
    first, second = served.refreshes
    num_queries = re.search(r"delta 1 \(new\).*newer states of (\d+) queries", first)
    assert num_queries is not None
    assert int(num_queries[1]) > 900  # the test event of every query that has one
    assert re.search(r"delta 1 \(nothing new\).*newer states of 0 queries", second)
    assert Release.open(served.folder / "release").delta == 1


def test_what_was_served_at_both_deltas_is_made_again_exactly(served: Served, smoke_run: Path, run_script: Run) -> None:
    done = check(served, smoke_run, run_script, f"served_log={served.log}")
    assert done.returncode == 0, done.stdout
    for name in ("item_ids", "scores", "candidate_ids", "history_rows", "context.idle_days"):
        assert f"{name}: {2 * NUM_ASKS} events compared, 0 differ" in done.stdout


def test_a_log_of_something_else_fails_and_the_report_names_it(
    served: Served, smoke_run: Path, run_script: Run, tmp_path: Path
) -> None:
    records = [json.loads(line) for line in served.log.read_text().splitlines()]
    records[3]["answer"]["items"][0]["score"] += 0.25
    records[5]["features"]["history_values"][0][-1] += 1.0
    records[6]["release_id"] = "another0release0"
    (tmp_path / "served.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = check(served, smoke_run, run_script, f"served_log={tmp_path}/served.jsonl")
    assert done.returncode == 1
    assert "left out, of release another0release0: 1 records" in done.stdout
    assert f"scores: {2 * NUM_ASKS - 1} events compared" in done.stdout
    failed = done.stdout.partition("ParityFailed: ")[2]
    assert re.search(rf"  scores: \d of {2 * NUM_ASKS - 1} events differ", failed)
    assert f"request {records[3]['request_id']} of query {records[3]['query_id']} at [0]: again" in failed
    assert "history_values: 1 of" in failed
    assert "Traceback" not in done.stdout


def test_without_a_log_events_are_replayed(served: Served, smoke_run: Path, run_script: Run) -> None:
    demo = smoke_run / "demo"
    done = check(served, smoke_run, run_script, f"towers_dir={demo}/towers", f"index_dir={demo}/index", "events=300")
    assert done.returncode == 0, done.stdout
    assert "ranker_dense.item_count_30d: 300 events compared, 0 differ" in done.stdout
