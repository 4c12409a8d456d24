"""How the cost of a preparation grows with its log: a table, a judgement and a figure.

Owns what is called linear. Knows nothing of how a cost was measured.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.plots import BLUE, VERMILION, uncluttered
from lifecycle.measured_process import WELL

GREEN = "#009E73"  # of the same palette
COLOURS = (BLUE, VERMILION, GREEN)
COSTS = {"cpu_s": "processor time in s", "peak_gb": "peak memory in GB"}
TITLE_WIDTH = 110  # characters on one line above both panels
COLUMNS = ["system", "num_events", "run", "ended", "wall_s", "cpu_s", "peak_gb"]


@dataclass(frozen=True)
class Judgement:
    """Whether growth is linear, and a sentence that says so with its numbers."""

    is_linear: bool
    finding: str


def medians(runs: pd.DataFrame) -> pd.DataFrame:
    """Median, lowest and highest of each cost by system and size, of the runs that ended well."""
    well = runs[runs["ended"] == WELL]
    costs = ["wall_s", *COSTS]
    grouped = well.groupby(["system", "num_events"], sort=False)[costs]
    named = {f"{cost}_{name}": (cost, name) for cost in costs for name in ("median", "min", "max")}
    return grouped.agg(**named).reset_index()


def per_million(runs: pd.DataFrame, *, system: str, cost: str) -> NDArray[np.float64]:
    """What a million events more cost a system, between each two neighbouring sizes.

    Args:
        runs: one row a run, with COLUMNS.
        system: which of them.
        cost: a column such as cpu_s.
    """
    table = medians(runs)
    own = table[table["system"] == system].sort_values("num_events")
    steps: NDArray[np.float64] = np.diff(own[f"{cost}_median"]) / np.diff(own["num_events"]) * 1e6
    return steps


def judge(runs: pd.DataFrame, *, system: str, linear_ratio: float) -> Judgement:
    """Judge a system's growth in processor time and memory.

    Growth is linear where a million events cost at most `linear_ratio` times as much in the longest log as in the
    shortest, and where every run ended well. A constant cost, such as imports, is no part of it.

    Args:
        runs: one row a run, with COLUMNS.
        system: which of them.
        linear_ratio: 1 or more; sorting alone takes 1.16 from 1.5 to 15 million.
    """
    own = runs[runs["system"] == system]
    bad = sorted(set(own["ended"]) - {WELL})
    if bad:
        return Judgement(is_linear=False, finding=f"{system}: not every run ended well: {', '.join(bad)}")
    cpu_s, peak_gb = (per_million(runs, system=system, cost=cost) for cost in COSTS)
    if len(cpu_s) < 2:
        raise ValueError(f"expected three sizes or more to judge growth, got {len(set(own['num_events']))}")
    is_linear = bool(cpu_s[-1] <= linear_ratio * cpu_s[0] and peak_gb[-1] <= linear_ratio * peak_gb[0])
    return Judgement(
        is_linear=is_linear,
        finding=f"{system}: a million events more cost {cpu_s[0]:.1f} s and {peak_gb[0]:.2f} GB in a short log, "
        f"{cpu_s[-1]:.1f} s and {peak_gb[-1]:.2f} GB in a long one: {'' if is_linear else 'not '}linear",
    )


def growth_figure(runs: pd.DataFrame, *, finding: str) -> Figure:
    """Costs by the number of events, both axes logarithmic; each run is a point, medians are joined.

    Args:
        runs: one row a run, with COLUMNS.
        finding: the title.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    table = medians(runs)
    for axes, (cost, label) in zip(figure.subplots(1, len(COSTS)), COSTS.items(), strict=True):
        for colour, system in zip(COLOURS, dict.fromkeys(runs["system"]), strict=False):
            points = runs[(runs["system"] == system) & (runs["ended"] == WELL)]
            line = table[table["system"] == system]
            axes.plot(points["num_events"], points[cost], "o", color=colour, markersize=4, alpha=0.6)
            axes.plot(line["num_events"], line[f"{cost}_median"], color=colour, label=system)
        ends = np.array([runs["num_events"].min(), runs["num_events"].max()])
        begin = float(table[f"{cost}_median"].min())
        axes.plot(ends, begin * ends / ends[0], ":", color="0.5", label="in proportion to the events")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("events")
        axes.set_ylabel(label)
        uncluttered(axes)
    figure.axes[0].legend(frameon=False, fontsize=9)
    num_runs = int(runs.groupby(["system", "num_events"]).size().max())
    title = textwrap.fill(f"{finding} (n = up to {num_runs} runs a point)", TITLE_WIDTH)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure
