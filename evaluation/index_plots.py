"""The figure of an index's operating points: recall against time.

Owns the figure. The table is lifecycle/tune_index.py's: one row a point, those of the chosen index marked `on_curve`.
"""

import pandas as pd
from matplotlib.figure import Figure

from evaluation.plots import BLUE, VERMILION, uncluttered

GREY = "#999999"


def curve_figure(table: pd.DataFrame, *, target: float, exact_ms: float, num_queries: int) -> Figure:
    """Recall against ms of a query; the chosen index as a line, the best points of others grey.

    Args:
        table: type, apart, recall, low, ms, on_curve, is_chosen.
        target: recall that was asked for.
        exact_ms: of exact search.
        num_queries: that recall is a mean of; bars reach down to its lower bound.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    own, others = table[table["on_curve"]].sort_values("recall"), table[~table["on_curve"]]
    axes.plot(others["ms"], others["recall"], "s", color=GREY, markersize=4, label="best points of other indexes")
    axes.errorbar(
        own["ms"],
        own["recall"],
        yerr=[own["recall"] - own["low"], 0 * own["low"]],
        fmt="o-",
        color=BLUE,
        capsize=2,
        label=f"{own['type'].iloc[0]}, by how much is read",
    )
    chosen = own[own["is_chosen"]]
    axes.plot(chosen["ms"], chosen["recall"], "D", color=VERMILION, markersize=9, label="chosen", zorder=3)
    axes.axhline(target, color=VERMILION, linewidth=1.0)
    axes.axvline(exact_ms, color=GREY, linewidth=1.0, linestyle="--", label="exact search")
    axes.set_xscale("log")
    axes.set_xlabel("processor ms of a query, one thread")
    axes.set_ylabel(f"recall, mean of {num_queries} queries and its lower bound (95 %)")
    ms = float(chosen["ms"].iloc[0])
    axes.set_title(
        f"{own['type'].iloc[0]} has recall {chosen['recall'].iloc[0]:.3f} at {ms:.3f} ms, "
        f"{exact_ms / ms:.1f} times as fast as exact search",
        loc="left",
        fontsize=11,
    )
    uncluttered(axes)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
