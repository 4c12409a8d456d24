"""What an evaluation leaves on disk: report.json, the tables as text and as CSV, the figures.

Owns the names of these files. What is measured is evaluate.py's, how a figure looks evaluation's.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from evaluation.calibration import Reliability
from evaluation.group_plots import groups_figure, groups_table
from evaluation.plots import save_plot, systems_figure, systems_table
from evaluation.reliability_plot import reliability_figure, reliability_table
from evaluation.report import Report, write_report
from evaluation.tables import groups_text, text_table

# Lines in the figures of groups: the best of each kind, the one of the title first.
DRAWN = ("fused_student", "fused", "towers", "transitions_ease", "ease_popularity_7d", "recent_popularity")


def write_files(report: Report, reliabilities: Mapping[str, Reliability], *, directory: Path) -> str:
    """Write all of them; returns the main table, which is what a terminal shows."""
    write_report(report, path=directory / "report.json")
    table = text_table(report)
    (directory / "table.txt").write_text(table + "\n")
    (directory / "groups.txt").write_text(groups_text(report) + "\n")
    for name in (report.slice, *report.slices):
        frame = systems_table(report, name=name)
        stem = "systems" if name == report.slice else f"systems_{_stem(name)}"
        save_plot(systems_figure(frame), table=frame, path=directory / f"{stem}.png")
    for kind, groups in report.groups.items():
        if groups:
            frame = groups_table(report, kind=kind)
            drawn = [system for system in DRAWN if (frame["system"] == system).any()]
            figure = groups_figure(frame, kind=kind, systems=drawn)
            save_plot(figure, table=frame, path=directory / f"by_{_stem(kind)}.png")
    if reliabilities:
        frame = reliability_table(reliabilities)
        figure = reliability_figure(frame, systems=list(reliabilities))
        save_plot(figure, table=frame, path=directory / "calibration.png")
    variety = pd.DataFrame.from_dict({name: dict(own) for name, own in report.variety.items()}, orient="index")
    variety.to_csv(directory / "variety.csv", index_label="system")
    return table


def _stem(name: str) -> str:
    return name.replace(" ", "_")
