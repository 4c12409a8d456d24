import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.errors import InvalidReport, InvalidSample
from evaluation.report import (
    Report,
    SliceReport,
    compare_systems,
    evaluate_system,
    intervals,
    merge_latency,
    merge_seconds,
    query_metrics,
    read_report,
    write_report,
)
from evaluation.significance import Interval

RANKED = np.array([[2, 3], [3, 2], [4, 5], [2, 4]])
RELEVANT = np.array([[2], [2], [9], [4]])


def small_report() -> Report:
    metrics = evaluate_system(ranked=RANKED, relevant=RELEVANT, ks=(1, 2), generator=np.random.default_rng(0))
    return Report(
        dataset="tiny",
        split="test",
        num_queries=4,
        systems={"popularity": metrics, "towers": {"ndcg@1": Interval(value=0.5, low=0.25, high=0.75)}},
        notes={"towers": "on a stated sample of 2 queries"},
        environment={"cores": 2, "git_commit": "abc"},
    )


def test_evaluate_system_names_every_metric_at_every_k():
    metrics = small_report().systems["popularity"]
    assert list(metrics) == [f"{name}@{k}" for k in (1, 2) for name in ("ndcg", "recall", "mrr", "hit_rate")]
    # found at ranks 1, 2, never, 2: hit rate 1/4 at 1 and 3/4 at 2; mrr@2 = (1 + 1/2 + 0 + 1/2) / 4
    assert metrics["hit_rate@1"].value == 0.25
    assert metrics["hit_rate@2"].value == 0.75
    assert metrics["mrr@2"].value == 0.5
    assert metrics["ndcg@2"].value == pytest.approx((1 + 2 / np.log2(3)) / 4)


def test_a_written_report_reads_back_the_same(tmp_path: Path):
    path = tmp_path / "demo" / "report.json"
    write_report(small_report(), path=path)
    assert read_report(path) == replace(small_report(), comparisons=())
    assert set(json.loads(path.read_text())["systems"]["towers"]["ndcg@1"]) == {"value", "low", "high"}
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_groups_and_variety_survive_the_file_and_a_report_of_before_has_none(tmp_path: Path):
    part = SliceReport(num_queries=2, num_pairs=3, note="", systems=small_report().systems)
    report = replace(
        small_report(),
        groups={"history": {"0": part, "1-5": part}},
        variety={"towers": {"coverage@10": 0.5, "novelty@10": 7.25}},
    )
    path = tmp_path / "report.json"
    write_report(report, path=path)
    assert read_report(path) == replace(report, comparisons=())
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in content if name not in ("groups", "variety")}))
    assert read_report(path).groups == {}


def test_comparisons_are_paired_and_survive_the_file(tmp_path: Path):
    # ndcg@1 is 1, 0, 0, 0 for one and 1, 1, 1, 1 for the other: the mean difference is 3 / 4
    worse = query_metrics(ranked=RANKED, relevant=RELEVANT, ks=(1,))
    better = query_metrics(ranked=RELEVANT, relevant=RELEVANT, ks=(1,))
    comparison = compare_systems(
        system="towers",
        baseline="popularity",
        metric="ndcg@1",
        system_values=better,
        baseline_values=worse,
        generator=np.random.default_rng(0),
    )
    assert comparison.value == 0.75
    assert comparison.low <= 0.75 <= comparison.high
    assert comparison.num_queries == 4
    write_report(replace(small_report(), comparisons=[comparison]), path=tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").comparisons == (comparison,)


def test_a_metric_measured_for_one_system_only_cannot_be_compared():
    values = query_metrics(ranked=RANKED, relevant=RELEVANT, ks=(1,))
    with pytest.raises(InvalidSample, match="ndcg@10 was not measured for both"):
        compare_systems(
            system="a",
            baseline="b",
            metric="ndcg@10",
            system_values=values,
            baseline_values=values,
            generator=np.random.default_rng(0),
        )


def test_latency_and_seconds_can_be_added_later(tmp_path: Path):
    path = tmp_path / "report.json"
    write_report(replace(small_report(), seconds={"prepare_data": 12.5}), path=path)
    merge_latency(path=path, latency_ms={"rank": {"p50": 9.0, "p99": 20.0}, "total": {"p50": 20.0, "p99": 50.0}})
    merge_latency(path=path, latency_ms={"rank": {"p50": 8.0, "p99": 19.0}})
    merge_seconds(path=path, seconds={"serve": 3.0})
    report = read_report(path)
    assert report.latency_ms == {"rank": {"p50": 8.0, "p99": 19.0}, "total": {"p50": 20.0, "p99": 50.0}}
    assert report.seconds == {"prepare_data": 12.5, "serve": 3.0}
    assert report.systems == small_report().systems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_queries": 0}, r"\$\.num_queries"),
        ({"systems": {}}, r"\$\.systems"),
        ({"slice": ""}, r"\$\.slice"),
        ({"slices": {"warm": SliceReport(num_queries=2, num_pairs=0, note="", systems={})}}, r"\$\.slices\.warm"),
        ({"systems": {"towers": {"auc": Interval(0.5, 0.4, 0.6)}}}, "auc"),
        ({"systems": {"towers": {"ndcg@10": Interval(50.0, 40.0, 60.0)}}}, r"maximum of 1"),
        ({"latency_ms": {"rank": {"p50": 1.0}}}, "p99"),
        ({"seconds": {"train": -1.0}}, "minimum of 0"),
    ],
)
def test_a_report_that_breaks_the_schema_is_not_written(tmp_path: Path, change, message):
    path = tmp_path / "report.json"
    with pytest.raises(InvalidReport, match=message):
        write_report(replace(small_report(), **change), path=path)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_report(tmp_path: Path):
    path = tmp_path / "report.json"
    write_report(small_report(), path=path)
    before = path.read_bytes()
    with pytest.raises(InvalidReport, match="JSON compliant"):
        write_report(replace(small_report(), seconds={"train": float("nan")}), path=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "report.json"
    path.write_text("{")
    with pytest.raises(InvalidReport, match=r"report\.json is not JSON"):
        read_report(path)


def test_slices_survive_the_file(tmp_path: Path):
    values = query_metrics(ranked=RANKED, relevant=RELEVANT, ks=(1,))
    comparison = compare_systems(
        system="towers",
        baseline="popularity",
        metric="ndcg@1",
        system_values=values,
        baseline_values=values,
        generator=np.random.default_rng(0),
    )
    part = SliceReport(
        num_queries=4,
        num_pairs=4,
        note="who came back",
        systems={"popularity": intervals(values, generator=np.random.default_rng(0))},
        comparisons=(comparison,),
    )
    write_report(replace(small_report(), slices={"warm queries": part}), path=tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").slices == {"warm queries": part}


def test_grades_weigh_in_ndcg_alone():
    ranked, relevant = np.array([[2, 3]]), np.array([[3, 2, 4]])
    graded = query_metrics(ranked=ranked, relevant=relevant, grades=np.array([[1.0, 3.0, 2.0]]), ks=(2,))
    binary = query_metrics(ranked=ranked, relevant=relevant, ks=(2,))
    # gains 3 and 1 of the best possible 3 and 2
    assert graded["ndcg@2"][0] == pytest.approx((3 + 1 / np.log2(3)) / (3 + 2 / np.log2(3)))
    assert binary["ndcg@2"][0] == pytest.approx(1.0)
    for name in ("recall@2", "mrr@2", "hit_rate@2"):
        assert graded[name] == binary[name]
