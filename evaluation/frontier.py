"""The frontier of rankers: quality against processor time, and which of them a budget buys.

Owns the figure and the choice. The table is a bench's (lifecycle/bench_ranker.py): one row a ranker, precision and
number of candidates that it re-orders.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008).
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#999999"


@dataclass(frozen=True)
class Choice:
    """What a budget buys: a row of the table, and its time on this machine."""

    ranker: str
    precision: str
    num_reordered: int
    value: float
    low: float
    high: float
    ms: float


def cost_ms(row: pd.Series, num: int) -> float:
    """Processor ms of `num` candidates, between and beyond those that were timed along a straight line."""
    timed = sorted(int(name.removeprefix("cpu_ms_")) for name in row.index if name.startswith("cpu_ms_"))
    times = np.array([row[f"cpu_ms_{own}"] for own in timed], dtype=np.float64)
    slope, start = np.polyfit(timed, times, 1) if len(timed) > 1 else (times[0] / timed[0], 0.0)
    return float(max(slope * num + start, 0.0))


def affordable(table: pd.DataFrame, *, budget_ms: float) -> list[Choice]:
    """All rows that fit the budget, best first; among equals the cheapest."""
    choices = []
    for _, row in table[table.filter(like="cpu_ms_").notna().all(axis=1)].iterrows():
        num = int(row["num_reordered"])
        ms = cost_ms(row, num) if num else 0.0
        if ms <= budget_ms:
            precision = row["precision"] if isinstance(row["precision"], str) else ""
            choices.append(
                Choice(
                    ranker=str(row["ranker"]),
                    precision=precision,
                    num_reordered=num,
                    value=float(row["ndcg@10"]),
                    low=float(row["low"]),
                    high=float(row["high"]),
                    ms=ms,
                )
            )
    return sorted(choices, key=lambda choice: (-choice.value, choice.ms))


def frontier_figure(table: pd.DataFrame, *, num: int) -> Figure:
    """NDCG@10 with its interval against ms for `num` candidates; who is beaten by nobody cheaper stands out."""
    own = table[(table["num_reordered"] == num) & table.filter(like="cpu_ms_").notna().all(axis=1)]
    own = own.assign(ms=[cost_ms(row, num) for _, row in own.iterrows()]).sort_values("ms")
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    best = -np.inf
    for _, row in own.iterrows():
        leads = row["ndcg@10"] > best
        best = max(best, row["ndcg@10"])
        axes.errorbar(
            [row["ms"]],
            [row["ndcg@10"]],
            yerr=[[row["ndcg@10"] - row["low"]], [row["high"] - row["ndcg@10"]]],
            marker="o" if leads else "s",
            color=BLUE if leads else GREY,
            capsize=2,
        )
        precision = f", {row['precision']}" if isinstance(row["precision"], str) and row["precision"] else ""
        axes.annotate(
            f"{row['ranker']}{precision}",
            (row["ms"], row["ndcg@10"]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
        )
    fused = table[table["num_reordered"] == 0]
    for _, row in fused.iterrows():
        axes.axhline(row["ndcg@10"], color=VERMILION, linewidth=1.0)
        axes.annotate(
            f"{row['ranker']}, not re-ordered",
            (own["ms"].min(), row["ndcg@10"]),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color=VERMILION,
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"processor ms for {num} candidates, one thread")
    axes.set_ylabel("NDCG@10, mean with 95 % interval")
    leader = own.sort_values("ndcg@10").iloc[-1]
    axes.set_title(
        f"{leader['ranker']} is best at {leader['ms']:.1f} ms: NDCG@10 {leader['ndcg@10']:.3f} "
        f"(n = {int(leader['num_queries'])})",
        loc="left",
        fontsize=11,
    )
    return figure
