"""Figures of operating points: one index's, and those of several searches, recall against time.

Owns the figures. The tables are lifecycle/tune_index.py's, one row a point, those of the chosen index marked
`on_curve`, and lifecycle/bench_index.py's.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from evaluation.plots import BLUE, VERMILION, uncluttered

GREY = "#999999"
COLOURS = (VERMILION, BLUE, "#009E73", "#E69F00", "#CC79A7")  # of the same palette
MARKERS = "os^Dv"
LOWEST_SHOWN = 0.8


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


def speeds_figure(table: pd.DataFrame, *, name: str, k: int, targets: Sequence[float]) -> Figure:
    """Recall against how many times as fast as exact search; of each search the points that no other of its beats.

    Args:
        table: search, recall, speed_up, speed_low, speed_high, one row a point.
        name: of the vectors, for the title.
        k: length of the lists.
        targets: recalls, as lines.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for colour, marker, (search, own) in zip(COLOURS, MARKERS, table.groupby("search", sort=False), strict=False):
        line = unbeaten(own)
        recall, middle, low, high = (
            line[name].to_numpy() for name in ("recall", "speed_up", "speed_low", "speed_high")
        )
        axes.errorbar(
            recall, middle, yerr=[middle - low, high - middle], fmt=f"{marker}-", color=colour, capsize=2, markersize=4,
            label=str(search),
        )  # fmt: skip
    for target in targets:
        axes.axvline(target, color=GREY, linewidth=1.0, linestyle="--")
    axes.axhline(1.0, color=GREY, linewidth=1.0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(LOWEST_SHOWN, 1.002)
    axes.set_xlabel(f"recall@{k} of exact search")
    axes.set_ylabel("times as fast as exact search (one query, one thread)")
    axes.set_title(f"{name}: {_fastest(table, target=targets[0])}", loc="left", fontsize=11)
    uncluttered(axes)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def _fastest(table: pd.DataFrame, *, target: float) -> str:
    reaching = table[table["recall"] >= target].sort_values("speed_up").to_dict("records")
    if not reaching:
        return f"none has recall {target:g}"
    best = reaching[-1]
    return f"at recall {target:g} {best['search']} is the fastest, {best['speed_up']:.1f} times exact search"


def unbeaten(points: pd.DataFrame) -> pd.DataFrame:
    """Those than which none is faster with the same or a higher recall, by recall."""
    order = points.sort_values(["recall", "speed_up"], ascending=[False, False])
    return order[order["speed_up"] > order["speed_up"].cummax().shift(fill_value=0.0)].iloc[::-1]
