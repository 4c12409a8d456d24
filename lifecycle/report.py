"""The report of a run: what was evaluated, plus what serving and the steps took.

Owns outputs/<run>/report.json once all steps are done.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from evaluation.report import merge_latency, merge_seconds, read_report
from evaluation.tables import text_table
from lifecycle.steps import MissingInput, read_step

STEP_DIRS = ("data", "towers", "index", "ranker", "evaluation", "release", "published")


def finish_report(run_dir: Path, *, evaluation_dir: Path, latency_ms: Mapping[str, Mapping[str, float]]) -> str:
    """Write report.json of the run from the evaluation's; returns it as a table for people."""
    path = run_dir / "report.json"
    partial = run_dir / ".report.partial.json"
    shutil.copyfile(evaluation_dir / "report.json", partial)
    merge_latency(path=partial, latency_ms=latency_ms)
    seconds = {}
    for name in STEP_DIRS:
        try:
            record = read_step(run_dir / name)
        except MissingInput:
            continue
        seconds[record["name"]] = record["seconds"]
    merge_seconds(path=partial, seconds=seconds)
    partial.replace(path)
    report = read_report(path)
    lines = [text_table(report), "", "latency, one client, ms".ljust(28) + "p50".rjust(8) + "p99".rjust(8)]
    lines += [f"{stage:<28}{own['p50']:8.2f}{own['p99']:8.2f}" for stage, own in report.latency_ms.items()]
    lines += ["", "seconds: " + ", ".join(f"{name} {spent:.0f}" for name, spent in report.seconds.items())]
    lines += [f"report: {path}"]
    return "\n".join(lines)
