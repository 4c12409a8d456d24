"""report.json: what a run measured, in one file whose schema lies beside this module.

Owns the evaluation of one system's lists, the comparison of two, and the file; tables.py shows it. Knows nothing of how
the lists were made.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidReport, InvalidSample
from evaluation.metrics import FloatArray, IntArray, Relevant, count_relevant, gains, hit_rate, mrr, ndcg, recall
from evaluation.significance import Interval, bootstrap_interval, paired_difference

SHARES = {"recall": recall, "mrr": mrr, "hit_rate": hit_rate}


@dataclass(frozen=True)
class Comparison:
    """A paired difference of two systems, system minus baseline."""

    system: str
    baseline: str
    metric: str
    value: float
    low: float
    high: float
    num_queries: int


@dataclass(frozen=True)
class SliceReport:
    """Every system on a part of the requests, or on a part of what they chose."""

    num_queries: int
    num_pairs: int
    note: str
    systems: Mapping[str, Mapping[str, Interval]]
    comparisons: Sequence[Comparison] = ()


@dataclass(frozen=True)
class Report:
    """The content of report.json; `report_schema.json` says what each key holds.

    `num_queries`, `systems` and `comparisons` are those of `slice`, the main one; `slices` has the others, `groups` the
    main one cut into groups, one way after another, and `variety` what its lists show, whoever wanted it.
    `calibration` has what the probabilities of its ranked candidates are off by, by system.
    """

    dataset: str
    split: str
    num_queries: int
    systems: Mapping[str, Mapping[str, Interval]]
    slice: str = "all pairs"
    slices: Mapping[str, SliceReport] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, SliceReport]] = field(default_factory=dict)
    variety: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    latency_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str | float | bool] = field(default_factory=dict)


def query_metrics(
    *, ranked: IntArray, relevant: Relevant, ks: Sequence[int], grades: NDArray[np.floating[Any]] | None = None
) -> dict[str, FloatArray]:
    """Every metric at every k, one value per query: {"ndcg@10": [Q], ...}; grades [Q, R] weigh in ndcg alone."""
    hits, num_relevant = gains(ranked=ranked, relevant=relevant, grades=grades), count_relevant(relevant)
    values = {}
    for k in ks:
        values[f"ndcg@{k}"] = ndcg(hits, num_relevant=num_relevant, k=k, grades=grades)
        values |= {f"{name}@{k}": metric(hits, num_relevant=num_relevant, k=k) for name, metric in SHARES.items()}
    return values


def intervals(values: Mapping[str, FloatArray], *, generator: np.random.Generator) -> dict[str, Interval]:
    """Means over queries with 95 % intervals, from the result of `query_metrics`."""
    return {name: bootstrap_interval(own, generator=generator) for name, own in values.items()}


def evaluate_system(
    *, ranked: IntArray, relevant: Relevant, ks: Sequence[int], generator: np.random.Generator
) -> dict[str, Interval]:
    """Means over queries with 95 % intervals, by metric.

    Args:
        ranked: [Q, K] item rows, best first, 0 = no result.
        relevant: Q arrays of relevant rows, or [Q, R] padded with 0.
        ks: list lengths to measure at, each <= K.
        generator: source of the bootstrap resamples.
    """
    return intervals(query_metrics(ranked=ranked, relevant=relevant, ks=ks), generator=generator)


def compare_systems(
    *,
    system: str,
    baseline: str,
    metric: str,
    system_values: Mapping[str, FloatArray],
    baseline_values: Mapping[str, FloatArray],
    generator: np.random.Generator,
) -> Comparison:
    """Paired difference in one metric, from two results of `query_metrics` on the same queries."""
    if metric not in system_values or metric not in baseline_values:
        raise InvalidSample(f"{metric} was not measured for both {system} and {baseline}; add its k to `ks`")
    first, second = system_values[metric], baseline_values[metric]
    interval = paired_difference(first, second, generator=generator)
    return Comparison(system=system, baseline=baseline, metric=metric, num_queries=len(first), **asdict(interval))


def write_report(report: Report, *, path: Path) -> None:
    """Validate and write, whole or not at all.

    Raises:
        InvalidReport: a value does not match the schema; nothing is written.
    """
    content = asdict(report)
    _validate(content, origin="the report")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        os.fchmod(handle, 0o644)  # mkstemp makes files that nobody else may read
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # also Ctrl-C: no half-written file may stay behind
        Path(beside).unlink(missing_ok=True)
        raise


def read_report(path: Path) -> Report:
    """Read a report and validate it.

    Raises:
        InvalidReport: the file is no JSON or does not match the schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InvalidReport(f"{path} is not JSON ({error}); run the evaluation again") from error
    _validate(content, origin=str(path))
    groups = {kind: _slices(own) for kind, own in content.get("groups", {}).items()}
    nested = {
        "slices": _slices(content["slices"]),
        "groups": groups,
        "calibration": _intervals(content.get("calibration", {})),
    }
    return Report(**(content | _results(content) | nested))


def _slices(content: Mapping[str, Any]) -> dict[str, SliceReport]:
    return {name: SliceReport(**(own | _results(own))) for name, own in content.items()}


def _results(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "systems": _intervals(content["systems"]),
        "comparisons": tuple(Comparison(**comparison) for comparison in content["comparisons"]),
    }


def _intervals(content: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    return {
        system: {metric: Interval(**interval) for metric, interval in metrics.items()}
        for system, metrics in content.items()
    }


def merge_latency(*, path: Path, latency_ms: Mapping[str, Mapping[str, float]]) -> None:
    """Add or replace latencies by stage in a written report; the serving step runs after the evaluation."""
    report = read_report(path)
    write_report(replace(report, latency_ms={**report.latency_ms, **latency_ms}), path=path)


def merge_seconds(*, path: Path, seconds: Mapping[str, float]) -> None:
    """Add or replace wall times by step in a written report, for the steps that end after it was written."""
    report = read_report(path)
    write_report(replace(report, seconds={**report.seconds, **seconds}), path=path)


def _validate(content: dict[str, Any], *, origin: str) -> None:
    schema = json.loads(resources.files("evaluation").joinpath("report_schema.json").read_text(encoding="utf-8"))
    try:
        # A round trip makes of tuples and mappings what the file will hold.
        plain = json.loads(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise InvalidReport(f"{origin} holds nan or an infinite number: {error}") from error
    differing = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(plain))
    if differing is not None:
        raise InvalidReport(f"{origin} does not match report_schema.json at {differing.json_path}: {differing.message}")
