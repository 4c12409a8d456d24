import sys
from pathlib import Path

from lifecycle.bench_etl import PYTHON, ROOT, Plan
from lifecycle.growth import COLUMNS
from lifecycle.replicated_log import ReplicatedLog

SAY = "import os, sys, pathlib; pathlib.Path(sys.argv[2]).mkdir(); print(os.getcwd(), *sys.argv[1:])"


def plan(out_dir: Path, **systems: list[str]) -> Plan:
    return Plan(systems=systems, runs=2, most_events={"brief": 10}, timeout_s=60.0, memory_bytes=10**9, out_dir=out_dir)


def log(folder: Path, num_events: int) -> ReplicatedLog:
    return ReplicatedLog(folder=folder, num_events=num_events, num_queries=1, num_items=1)


def test_systems_run_in_turn_from_the_projects_folder_each_with_places_of_its_own(tmp_path):
    say = [PYTHON, "-c", SAY, "{folder}/{name}.inter", "{out_dir}"]
    rows = list(plan(tmp_path, one=say, other=[sys.executable, *say[1:]]).measured(log(tmp_path / "log", 5)))
    assert [(row["system"], row["run"]) for row in rows] == [("one", 0), ("other", 0), ("one", 1), ("other", 1)]
    # The second run's mkdir fails unless the first one's folder was removed.
    assert [row["ended"] for row in rows] == ["well"] * 4
    assert list(rows[0]) == COLUMNS
    printed = (tmp_path / "one.log.log").read_text().split()
    assert printed == [str(ROOT), f"{tmp_path}/log/log.inter", f"{tmp_path}/one"]


def test_a_system_is_spared_logs_longer_than_its_own_limit(tmp_path):
    found = plan(tmp_path, brief=[PYTHON, "-c", ""], patient=[PYTHON, "-c", ""]).measured(log(tmp_path / "log", 11))
    assert {row["system"] for row in found} == {"patient"}
