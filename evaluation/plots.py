"""Figures of a report.

Each plot is a function from a table to a Figure; `save_plot` writes the PNG and the table beside it. Importing this
module sets no backend and opens no window.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report import Report

# Okabe and Ito, "Color universal design" (2008): told apart under every common colour blindness.
BLUE = "#0072B2"
VERMILION = "#D55E00"


def uncluttered(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """A pale grid behind what is drawn, and no frame above and to the right."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def systems_table(report: Report, *, metric: str = "ndcg@10", name: str | None = None) -> pd.DataFrame:
    """One row a system that has the metric, best first: system, value, low, high, num_queries, note, slice.

    Args:
        report: with the slice.
        metric: such as ndcg@10.
        name: of the slice; None is the main one.
    """
    part = report if name in (None, report.slice) else report.slices[name]
    rows = [
        {
            "system": system,
            "value": values[metric].value,
            "low": values[metric].low,
            "high": values[metric].high,
            "num_queries": part.num_queries,
            "note": report.notes.get(system, ""),
            "slice": name or report.slice,
        }
        for system, values in part.systems.items()
        if metric in values
    ]
    columns = ["system", "value", "low", "high", "num_queries", "note", "slice"]
    return pd.DataFrame(rows, columns=columns).sort_values("value", ascending=False, ignore_index=True)


def systems_figure(table: pd.DataFrame, *, metric: str = "ndcg@10", finding: str = "") -> Figure:
    """Systems as points with their 95 % intervals, best on top.

    Args:
        table: as from `systems_table`.
        metric: what `value` measures, for the axis.
        finding: the title; by default the highest value and its interval, which claims no difference.
    """
    label = metric.upper() if metric.startswith(("ndcg", "mrr")) else metric.capitalize()
    figure = Figure(figsize=(8, 1.6 + 0.42 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    value, low, high = (table[column].to_numpy(dtype=np.float64) for column in ("value", "low", "high"))
    # A note marks what is not measured like the rest (such as a sample of queries), so it looks different too.
    noted = (table["note"] != "").to_numpy(dtype=np.bool_)
    places = np.arange(len(table))
    for group, colour, marker in ((~noted, BLUE, "o"), (noted, VERMILION, "D")):
        errors = np.stack([value - low, high - value])[:, group]  # [2, systems of the group]
        axes.errorbar(value[group], places[group], xerr=errors, fmt=marker, color=colour, capsize=3, markersize=6)
    systems, notes = table["system"].tolist(), table["note"].tolist()
    ticks = [f"{system}\n({note})" if note else system for system, note in zip(systems, notes, strict=True)]
    axes.set_yticks(places, ticks)
    num_queries, part = int(table["num_queries"].to_numpy()[0]), table["slice"].to_numpy()[0]
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{label}, mean over queries with 95 % interval (n = {num_queries} queries, {part})")
    axes.set_title(finding or _finding(table, label), loc="left", fontsize=11)
    uncluttered(axes, grid="x")
    return figure


def _finding(table: pd.DataFrame, label: str) -> str:
    # A system with a note was measured on other queries or terms, so it cannot be called the best.
    comparable = table[table["note"] == ""]
    best = (comparable if len(comparable) else table).to_dict("records")[0]
    return f"{best['system']} has the highest {label}: {best['value']:.3f} ({best['low']:.3f}-{best['high']:.3f})"


def save_plot(figure: Figure, *, table: pd.DataFrame, path: Path) -> None:
    """Write the PNG at `path` and the table as a CSV of the same stem beside it, each whole or not at all."""
    if path.suffix != ".png":
        raise ValueError(f"a plot is saved as .png; got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    csv_path = path.with_suffix(".csv")
    png_partial, csv_partial = path.with_suffix(".png.partial"), path.with_suffix(".csv.partial")
    try:
        figure.savefig(png_partial, format="png", dpi=150)
        table.to_csv(csv_partial, index=False)
        os.replace(csv_partial, csv_path)
        os.replace(png_partial, path)
    finally:
        png_partial.unlink(missing_ok=True)
        csv_partial.unlink(missing_ok=True)
