import json
from pathlib import Path

import pytest

from evaluation.errors import InvalidReport
from evaluation.report import Report, read_report, write_report
from evaluation.significance import Interval
from lifecycle.report import finish_report

LATENCY_MS = {"rank": {"p50": 7.5, "p99": 11.0}, "http_total": {"p50": 20.0, "p99": 31.0}}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of which three steps are finished."""
    evaluated = Report(
        dataset="d",
        split="s",
        num_queries=10,
        systems={"towers": {"ndcg@10": Interval(0.1, 0.05, 0.15), "recall@100": Interval(0.6, 0.5, 0.7)}},
        seconds={"train_towers": 1.0},
    )
    (tmp_path / "evaluation").mkdir()
    write_report(evaluated, path=tmp_path / "evaluation" / "report.json")
    for directory, name, seconds in (
        ("towers", "train_towers", 12.0),
        ("evaluation", "evaluate", 3.25),
        ("published", "publish", 2.0),
    ):
        (tmp_path / directory).mkdir(exist_ok=True)
        record = {"name": name, "fingerprint": "f", "seconds": seconds, "config": {}}
        (tmp_path / directory / "step.json").write_text(json.dumps(record))
    return tmp_path


def test_the_report_of_a_run_adds_latency_and_the_seconds_of_the_finished_steps(run_dir: Path) -> None:
    finish_report(run_dir, evaluation_dir=run_dir / "evaluation", latency_ms=LATENCY_MS)
    report, evaluated = (read_report(run_dir / place) for place in ("report.json", "evaluation/report.json"))
    assert report.systems == evaluated.systems
    assert report.latency_ms == LATENCY_MS
    assert report.seconds == {"train_towers": 12.0, "evaluate": 3.25, "publish": 2.0}
    assert evaluated.latency_ms == {}  # the step's own result is nobody else's to change
    assert [path.name for path in run_dir.glob("*report*")] + list(run_dir.glob(".*")) == ["report.json"]


def test_the_text_has_the_table_every_stage_and_where_the_report_lies(run_dir: Path) -> None:
    text = finish_report(run_dir, evaluation_dir=run_dir / "evaluation", latency_ms=LATENCY_MS)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["rank"] == ["7.50", "11.00"]
    assert lines["http_total"] == ["20.00", "31.00"]
    assert lines["towers"][0] == "0.100"
    assert "seconds: train_towers 12, evaluate 3, publish 2" in text
    assert text.splitlines()[-1] == f"report: {run_dir / 'report.json'}"


def test_a_second_run_replaces_what_the_first_measured(run_dir: Path) -> None:
    finish_report(run_dir, evaluation_dir=run_dir / "evaluation", latency_ms=LATENCY_MS)
    finish_report(run_dir, evaluation_dir=run_dir / "evaluation", latency_ms={"rank": {"p50": 1.0, "p99": 2.0}})
    assert read_report(run_dir / "report.json").latency_ms == {"rank": {"p50": 1.0, "p99": 2.0}}


def test_a_latency_that_is_no_number_leaves_the_former_report(run_dir: Path) -> None:
    finish_report(run_dir, evaluation_dir=run_dir / "evaluation", latency_ms=LATENCY_MS)
    with pytest.raises(InvalidReport, match="nan"):
        finish_report(
            run_dir, evaluation_dir=run_dir / "evaluation", latency_ms={"rank": {"p50": float("nan"), "p99": 1.0}}
        )
    assert read_report(run_dir / "report.json").latency_ms == LATENCY_MS
