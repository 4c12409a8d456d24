"""Figures and tables of a report's groups: one metric, system by system, from one group to the next.

Owns the long table and its figure. What a report holds is report.py's, how a figure is saved plots.py's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.plots import uncluttered
from evaluation.report import Report

# Okabe and Ito, "Color universal design" (2008), without black and without yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
COLUMNS = ("group", "system", "metric", "value", "low", "high", "num_queries", "num_pairs")


def groups_table(report: Report, *, kind: str) -> pd.DataFrame:
    """One row a group, system and metric, groups in their order: COLUMNS.

    Args:
        report: with groups.
        kind: what these are cut by.
    """
    rows = [
        (name, system, metric, one.value, one.low, one.high, part.num_queries, part.num_pairs)
        for name, part in report.groups[kind].items()
        for system, metrics in part.systems.items()
        for metric, one in metrics.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def groups_figure(table: pd.DataFrame, *, kind: str, systems: Sequence[str], metric: str = "ndcg@10") -> Figure:
    """Systems as lines over the groups, each point with its 95 % interval.

    Args:
        table: as from `groups_table`.
        kind: what the groups are cut by, for the axis.
        systems: at most as many as there are COLOURS; the first is the one that the title speaks of.
        metric: what is drawn.
    """
    own = table[(table["metric"] == metric) & table["system"].isin(systems)]
    groups = list(dict.fromkeys(own["group"]))
    sizes = dict(zip(own["group"], own["num_queries"], strict=True))
    figure = Figure(figsize=(1.8 + 1.0 * max(len(groups), 5), 4.8), layout="constrained")
    axes = figure.add_subplot()
    for place, system in enumerate(systems):
        line = own[own["system"] == system].set_index("group").reindex(groups)
        value, low, high = (line[column].to_numpy(dtype=np.float64) for column in ("value", "low", "high"))
        # Beside one another, so that intervals can be told apart.
        at = np.arange(len(groups)) + 0.08 * (place - (len(systems) - 1) / 2)
        axes.errorbar(
            at,
            value,
            yerr=np.stack([value - low, high - value]),
            color=COLOURS[place],
            marker=MARKERS[place],
            capsize=2,
            linewidth=1.2,
            markersize=5,
            label=system,
        )
    axes.set_xticks(np.arange(len(groups)), [f"{group}\nn = {sizes[group]}" for group in groups], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{kind} (n queries)")
    axes.set_ylabel(f"{_label(metric)}, mean with 95 % interval")
    axes.set_title(_finding(own, groups=groups, system=systems[0], metric=metric), loc="left", fontsize=11)
    uncluttered(axes, grid="y")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _label(metric: str) -> str:
    return metric.upper() if metric.startswith(("ndcg", "mrr")) else metric.capitalize()


def _finding(own: pd.DataFrame, *, groups: Sequence[str], system: str, metric: str) -> str:
    values = own[own["system"] == system].set_index("group")["value"]
    first, last = (f"{values[group]:.3f} at {group}" for group in (groups[0], groups[-1]))
    return f"{_label(metric)} of {system}: {first}, {last}"
