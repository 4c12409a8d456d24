"""The whole main job on real data with experiment=smoke: what it leaves, and what running it again does."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from serving.registry import resolve
from serving.release import verify

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["prepare_data", "train_towers", "build_index", "train_ranker", "evaluate", "export_release", "publish"]

Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]
Settings = Callable[[Path], list[str]]
Naming = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def report(smoke_run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((smoke_run / "demo" / "report.json").read_text())
    return content


def test_the_report_keeps_its_schema_and_has_every_system_step_and_stage(report: dict[str, Any]) -> None:
    jsonschema.validate(report, json.loads((ROOT / "evaluation" / "report_schema.json").read_text()))
    assert report["dataset"] == "movielens100k"
    assert report["num_queries"] == 943
    assert set(report["systems"]) >= {
        *("popularity", "recent_popularity", "item_knn", "ease"),
        *("towers", "fused_lightgbm", "fused_student", "fused_student_shuffled_texts", "fused_teacher"),
    }
    assert all({"ndcg@10", "recall@100"} <= set(metrics) for metrics in report["systems"].values())
    assert set(report["seconds"]) == set(STEPS)
    assert set(report["latency_ms"]) == {
        *("features", "query_tower", "retrieve", "ranker_inputs", "rank", "postprocess"),
        *("feature_store", "grpc_total", "http_total"),
    }
    assert all(set(own) == {"p50", "p99"} for own in report["latency_ms"].values())


def test_the_lists_scored_by_hand_give_the_numbers_of_the_report(smoke_run: Path, report: dict[str, Any]) -> None:
    relevant = dict(read(smoke_run / "lists" / "relevant.parquet", "query_id", "item_id"))
    systems = sorted(path.stem for path in (smoke_run / "lists").glob("*.parquet") if path.stem != "relevant")
    assert systems == sorted(set(report["systems"]) - {"fused_teacher"})
    for system in systems:
        rank_of: dict[str, int] = {}
        for query_id, item_id, rank in read(smoke_run / "lists" / f"{system}.parquet", "query_id", "item_id", "rank"):
            if item_id == relevant[query_id]:
                rank_of[query_id] = rank
        ndcg = recall = 0.0
        for query_id in relevant:
            rank = rank_of.get(query_id, 1_000_000)
            # One relevant item: its gain of 1 is discounted by its rank, and the ideal list has it at rank 1.
            ndcg += 1.0 / math.log2(rank + 1) if rank <= 10 else 0.0
            recall += 1.0 if rank <= 100 else 0.0
        metrics = report["systems"][system]
        assert metrics["ndcg@10"]["value"] == pytest.approx(ndcg / len(relevant), abs=1e-9), system
        assert metrics["recall@100"]["value"] == pytest.approx(recall / len(relevant), abs=1e-9), system


def test_what_is_held_out_is_the_last_event_of_each_query_in_the_raw_file(smoke_run: Path) -> None:
    with zipfile.ZipFile(ROOT / ".cache/wheels/recbole-1.2.1-py3-none-any.whl") as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("ml-100k.inter"))
        lines = wheel.read(name).decode().splitlines()[1:]
    last: dict[str, tuple[float, str]] = {}
    for line in lines:
        query_id, item_id, _, at_s = line.split("\t")
        if query_id not in last or float(at_s) >= last[query_id][0]:  # of equals the later line
            last[query_id] = (float(at_s), item_id)
    relevant = dict(read(smoke_run / "lists" / "relevant.parquet", "query_id", "item_id"))
    assert relevant == {query_id: item_id for query_id, (_, item_id) in last.items()}


def test_the_prepared_data_matched_the_films(smoke_run: Path) -> None:
    facts = (smoke_run / "output.txt").read_text()
    found = re.search(r"films (\d+), films_matched (\d+)", facts)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (1682, 1391)


def test_the_release_verifies_and_the_registrys_champion_is_it(smoke_run: Path) -> None:
    release_dir = smoke_run / "demo" / "release"
    manifest = verify(release_dir)
    champion = resolve(uri=f"sqlite:///{smoke_run}/mlflow.db")
    assert champion.path == release_dir
    assert verify(champion.path)["release_id"] == manifest["release_id"]


def test_a_run_leaves_its_results_and_nothing_half_written(smoke_run: Path) -> None:
    steps = ("data", "towers", "index", "ranker", "evaluation", "release", "published")
    assert {path.name for path in (smoke_run / "demo").iterdir()} == {
        *steps,
        *(f".{name}.lock" for name in steps),
        *("serving", "report.json", "online_store", "model_repository", "release.deltas", ".hydra_run"),
    }
    assert half_written(smoke_run) == []


def test_the_demonstration_shows_three_queries_with_titles_and_both_ways_to_ask(smoke_run: Path) -> None:
    printed = (smoke_run / "output.txt").read_text()
    for query_id in ("196", "22", "405"):
        assert f"query {query_id}: history of" in printed
    assert len(re.findall(r"HTTP \S+, source model, [\d.]+ ms: the same list", printed)) == 3
    assert len(re.findall(r"  held out: \S+", printed)) == 3
    assert len((smoke_run / "demo" / "serving" / "served.jsonl").read_text().splitlines()) >= 100


class SecondRun(NamedTuple):
    """The same command again, served until Ctrl-C."""

    printed: str
    status: int
    before: set[str]
    during: set[str]
    after: set[str]


@pytest.fixture(scope="module")
def second(smoke_run: Path, start_script: Start, smoke_settings: Settings, processes_naming: Naming) -> SecondRun:
    before = set(processes_naming(smoke_run))
    with started(start_script, "run_pipeline", *smoke_settings(smoke_run), "keep_serving=true") as process:
        printed = read_until(process, "the server stays until Ctrl-C")
        during = set(processes_naming(smoke_run)) - before
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    return SecondRun(printed + rest, process.returncode, before, during, set(processes_naming(smoke_run)))


def test_a_second_run_skips_every_step_and_serves_again(
    second: SecondRun, smoke_run: Path, report: dict[str, Any]
) -> None:
    assert re.findall(r"(\w+): nothing changed, result is in", second.printed) == STEPS
    assert not re.findall(r"\w+: running", second.printed)
    again = json.loads((smoke_run / "demo" / "report.json").read_text())
    assert again["systems"] == report["systems"]
    assert again["seconds"] == report["seconds"]


def test_ctrl_c_while_serving_ends_with_130_and_leaves_no_process(second: SecondRun) -> None:
    assert any("tritonserver" in line for line in second.during)
    assert any("serving.gateway" in line for line in second.during)
    assert second.status == 130
    assert second.after == second.before
    assert "interrupted; finished steps are kept, the same command goes on from here" in second.printed
    assert "Traceback" not in second.printed


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_run_that_ends_while_its_server_starts(
    smoke_run: Path, start_script: Start, processes_naming: Naming, tmp_path: Path, end: signal.Signals
) -> None:
    overrides = [f"run_dir={smoke_run}/demo", f"work_dir={tmp_path}/serving", f"hydra.run.dir={tmp_path}/hydra"]
    report = (smoke_run / "demo" / "report.json").read_bytes()
    with started(start_script, "demo_requests", "experiment=smoke", *overrides) as process:
        wait_until(
            lambda: any("tritonserver" in line for line in processes_naming(tmp_path / "serving")), process=process
        )
        os.killpg(process.pid, end)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL), printed
    wait_until(lambda: processes_naming(tmp_path) == [])
    assert (smoke_run / "demo" / "report.json").read_bytes() == report


@pytest.fixture
def other_run(smoke_run: Path, tmp_path: Path) -> Path:
    """The folder of another run, which has the data and the text embeddings already."""
    shutil.copytree(smoke_run / "demo" / "data", tmp_path / "demo" / "data")
    shutil.copytree(smoke_run / "cache", tmp_path / "cache")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("cut", "is_torn"), [("fold", False), ("fold", True), ("refit", False)])
def test_a_run_that_was_killed_while_it_trained_goes_on_and_ends_as_if_it_had_not_been(
    smoke_run: Path,
    other_run: Path,
    start_script: Start,
    run_script: Run,
    smoke_settings: Settings,
    cut: str,
    is_torn: bool,
) -> None:
    command = ("run_pipeline", *smoke_settings(other_run), "until=build_index")
    demo = other_run / "demo"
    checkpoint = demo / ".towers.partial" / cut / "last.ckpt"
    with started(start_script, *command) as process:
        wait_until(checkpoint.is_file, process=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert not (demo / "towers").exists()
    if is_torn:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])

    done = run_script(*command)
    assert done.returncode == 0, done.stdout
    assert "prepare_data: nothing changed" in done.stdout
    assert (f"cut {cut}: training goes on from a checkpoint" in done.stdout) == (not is_torn)
    assert ("last.ckpt cannot be read" in done.stdout) == is_torn
    assert half_written(demo) == []
    for name in ("fold", "refit"):
        wanted, got = (
            np.load(run / "demo" / "towers" / name / "arrays" / "item_embeddings.npy") for run in (smoke_run, other_run)
        )
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
def test_ctrl_c_while_training_ends_with_130_and_keeps_what_was_learnt(
    other_run: Path, start_script: Start, smoke_settings: Settings
) -> None:
    demo = other_run / "demo"
    with started(start_script, "run_pipeline", *smoke_settings(other_run), "trainer.max_epochs=200") as process:
        wait_until(lambda: (demo / ".towers.partial" / "fold" / "last.ckpt").is_file(), process=process)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "interrupted; finished steps are kept" in printed
    assert "Traceback" not in printed
    assert not (demo / "towers").exists()
    assert (demo / ".towers.partial" / "fold" / "last.ckpt").is_file()


@pytest.mark.slow
def test_another_setting_redoes_its_step_and_those_after_it(
    smoke_run: Path, run_script: Run, smoke_settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(smoke_run / "demo", tmp_path / "demo", symlinks=True)
    kept = [one for one in smoke_settings(smoke_run) if not one.startswith(("run_dir=", "lists="))]
    done = run_script(
        "run_pipeline", *kept, f"run_dir={tmp_path}/demo", f"lists={tmp_path}/lists", "index=ivf_flat", "until=evaluate"
    )
    assert done.returncode == 0, done.stdout
    assert re.findall(r"(\w+): nothing changed, result is in", done.stdout) == ["prepare_data", "train_towers"]
    assert re.findall(r"(\w+): done in", done.stdout) == ["build_index", "train_ranker", "evaluate"]
    records = {
        name: [read_record(folder / "demo" / name) for folder in (smoke_run, tmp_path)]
        for name in ("data", "towers", "index", "ranker", "evaluation")
    }
    changed = {name for name, (first, then) in records.items() if first["fingerprint"] != then["fingerprint"]}
    assert changed == {"index", "ranker", "evaluation"}
    assert records["index"][1]["config"]["index"]["_target_"] == "towers.index.lists.IvfFlatBuilder"


@pytest.mark.slow
def test_a_step_that_runs_alone_measures_what_the_whole_run_did(
    smoke_run: Path, run_script: Run, smoke_settings: Settings, tmp_path: Path, report: dict[str, Any]
) -> None:
    demo = smoke_run / "demo"
    done = run_script(
        "evaluate",
        "experiment=smoke",
        *(f"{name}_dir={demo}/{name}" for name in ("data", "towers", "index", "ranker")),
        f"evaluation_dir={tmp_path}/evaluation",
        f"teacher_cache={smoke_run}/teacher.sqlite",
        f"lists={tmp_path}/lists",
        f"hydra.run.dir={tmp_path}/hydra",
    )
    assert done.returncode == 0, done.stdout
    alone = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    assert alone["systems"] == report["systems"]
    assert alone["comparisons"] == report["comparisons"]
    for path in (smoke_run / "lists").glob("*.parquet"):
        assert pq.read_table(tmp_path / "lists" / path.name).equals(pq.read_table(path)), path.stem


@pytest.mark.slow
def test_a_last_step_that_is_none_is_refused_by_what_there_is(run_script: Run, tmp_path: Path) -> None:
    done = run_script("run_pipeline", f"run_dir={tmp_path}/demo", "until=train_tower")
    assert done.returncode == 1
    assert "until: expected one of prepare_data, train_towers, " in done.stdout
    assert "got 'train_tower'" in done.stdout
    assert {path.name for path in (tmp_path / "demo").iterdir()} <= {".hydra_run"}


def read(path: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a parquet file."""
    table = pq.read_table(path, columns=list(columns))
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def half_written(folder: Path) -> list[Path]:
    """Files and folders of something that was not finished."""
    marks = (".partial", ".former", ".tmp", ".ckpt")
    return [path for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


def read_record(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / "step.json").read_text())
    return record


@contextlib.contextmanager
def started(start: Start, name: str, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A script that does not outlive the test, whatever fails in it."""
    with start(name, *overrides) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints up to a text."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    raise AssertionError(f"it ended without {text!r}:\n{printed[-6000:]}")


def wait_until(
    condition: Callable[[], bool], *, process: subprocess.Popen[str] | None = None, seconds: float = 180.0
) -> None:
    """Wait for something to come to pass, while a process runs that may bring it about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
