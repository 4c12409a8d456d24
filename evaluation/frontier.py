"""The frontier of rankers: quality against processor time, and which of them a budget buys.

Owns the figure and the choice. The table is a bench's (lifecycle/bench_ranker.py): one row a ranker, precision and
number of candidates that it re-orders.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.plots import BLUE, VERMILION

GREY = "#999999"


@dataclass(frozen=True)
class Choice:
    """What a budget buys: a row of the table, its time, and the settings by which a release has it."""

    ranker: str
    num_reordered: int
    value: float
    low: float
    high: float
    ms: float
    served_by: str


def cost_ms(row: pd.Series) -> float:
    """Processor ms of the candidates that are re-ordered; nan where they were not timed."""
    num = int(row["num_reordered"])
    return float(row.get(f"cpu_ms_{num}", np.nan)) if num else 0.0


def affordable(table: pd.DataFrame, *, budget_ms: float) -> list[Choice]:
    """All rows that fit the budget and that a release can be made of, best first; among equals the cheapest."""
    choices = []
    for _, row in table.fillna({"precision": "", "served_by": ""}).iterrows():
        if row["served_by"] and cost_ms(row) <= budget_ms:
            choices.append(
                Choice(
                    ranker=str(row["ranker"]),
                    num_reordered=int(row["num_reordered"]),
                    value=float(row["ndcg@10"]),
                    low=float(row["low"]),
                    high=float(row["high"]),
                    ms=cost_ms(row),
                    served_by=str(row["served_by"]),
                )
            )
    return sorted(choices, key=lambda choice: (-choice.value, choice.ms))


def frontier_figure(table: pd.DataFrame, *, num: int) -> Figure:
    """NDCG@10 with its interval against ms for `num` candidates; who is beaten by nobody cheaper stands out."""
    own = table[table["num_reordered"] == num]
    own = own.assign(ms=[cost_ms(row) for _, row in own.iterrows()]).dropna(subset="ms").sort_values("ms")
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
