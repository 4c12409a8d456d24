"""The reliability table, and its figure: what was promised beside what happened, bin by bin.

Owns both. What they show is calibration.py's, how a figure is saved plots.py's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.calibration import Reliability
from evaluation.group_plots import COLOURS, MARKERS
from evaluation.plots import uncluttered

COLUMNS = (
    *("system", "bin", "predicted", "observed", "low", "high", "num_pairs", "num_lists"),
    *("ece", "ece_low", "ece_high", "ece_by_chance"),
)


def reliability_table(measured: Mapping[str, Reliability]) -> pd.DataFrame:
    """One row a system and bin, from 1 on: COLUMNS; the error is the system's, in each of its rows."""
    rows = [
        (
            *(name, place + 1, own.predicted[place], own.observed[place], own.low[place], own.high[place]),
            *(own.num_pairs[place], own.num_lists, own.error.value, own.error.low, own.error.high, own.by_chance),
        )
        for name, own in measured.items()
        for place in range(len(own.predicted))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def reliability_figure(table: pd.DataFrame, *, systems: Sequence[str]) -> Figure:
    """Observed over predicted, both by logarithm, beside the diagonal on which they are equal.

    Args:
        table: as from `reliability_table`.
        systems: at most as many as there are COLOURS; the first is the one that the title speaks of.
    """
    figure = Figure(figsize=(7, 5.6), layout="constrained")
    axes = figure.add_subplot()
    own = table[table["system"].isin(systems)]
    shown = own[["predicted", "observed"]].to_numpy(dtype=np.float64)
    # A bin in which nothing was chosen lies at minus infinity: it is drawn at the bottom, its interval above it.
    bottom, top = shown[shown > 0].min(initial=1.0) / 3.0, min(3.0 * shown.max(), 1.0)
    axes.plot([bottom, top], [bottom, top], color="0.6", linewidth=1.0, label="as predicted")
    for place, system in enumerate(systems):
        line = own[own["system"] == system]
        predicted, observed, low, high = (
            np.maximum(line[column].to_numpy(dtype=np.float64), bottom)
            for column in ("predicted", "observed", "low", "high")
        )
        axes.errorbar(
            predicted,
            observed,
            yerr=np.stack([np.maximum(observed - low, 0.0), np.maximum(high - observed, 0.0)]),
            color=COLOURS[place],
            marker=MARKERS[place],
            capsize=2,
            linewidth=0,
            elinewidth=1.2,
            markersize=5,
            label=system,
        )
    first = own[own["system"] == systems[0]].iloc[0]
    num_pairs = int(own.loc[own["system"] == systems[0], "num_pairs"].sum())
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"predicted probability, mean of a bin (n = {num_pairs} candidates of {first['num_lists']} lists)")
    axes.set_ylabel("share that was chosen, with 95 % interval")
    axes.set_title(
        f"{systems[0]}: off by {first['ece']:.5f} ({first['ece_low']:.5f}-{first['ece_high']:.5f}) on average",
        loc="left",
        fontsize=11,
    )
    uncluttered(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure
