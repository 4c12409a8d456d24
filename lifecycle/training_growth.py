"""What a training step costs as the catalogue or the histories grow: rows, and a figure.

Owns the order of the measurements. What is trained is made_up_training.py's.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from evaluation.plots import BLUE, VERMILION, uncluttered
from lifecycle.bench_etl import ROOT, with_interpreter
from lifecycle.turns import Trainee

AXES = {"num_items": "items", "history_length": "events of a history"}
COSTS = {"step_cpu_ms": "processor time of a step in ms", "peak_gb": "peak memory in GB"}
LOSS_COLOURS = {"sampled_softmax": BLUE, "full_softmax": VERMILION}
TITLE_WIDTH = 110  # characters on one line above the panels


@dataclass(frozen=True)
class Point:
    """One size: what grows (a key of AXES), to which value, under which loss."""

    grows: str
    value: int
    loss: str


@dataclass(frozen=True)
class Growth:
    """How points are measured.

    Attributes:
        command: program and arguments; `{grows}`, `{value}` and `{loss}` in it are the point's.
        warm_up: turns that do not count.
        turns: that do.
        num_threads: of the training.
        out_dir: for logs.
    """

    command: Sequence[str]
    warm_up: int
    turns: int
    num_threads: int
    out_dir: Path

    def measured(self, point: Point) -> Iterator[dict[str, object]]:
        """One row a turn that counts; the training is a process of its own, so that its memory is too."""
        names = {"grows": point.grows, "value": point.value, "loss": point.loss}
        name = "_".join(map(str, names.values()))
        command = with_interpreter([part.format(**names) for part in self.command])
        log = self.out_dir / f"{name}.log"
        with Trainee(name, command, cwd=ROOT, log=log, num_threads=self.num_threads) as training:
            training.prepare()
            for number in range(self.warm_up + self.turns):
                turn = training.turn()
                if turn is None:
                    raise ValueError(f"{name} ended in turn {number} of {self.warm_up + self.turns}; see {log}")
                if number >= self.warm_up:
                    yield {
                        **names,
                        "num_steps": turn.num_steps,
                        "step_ms": turn.wall_s / turn.num_steps * 1e3,
                        "step_cpu_ms": turn.cpu_s / turn.num_steps * 1e3,
                        "waited_share": turn.waited_s / turn.wall_s,
                        "peak_gb": turn.peak_bytes / 1e9,
                    }


def growth_figure(rows: pd.DataFrame, *, finding: str) -> Figure:
    """A panel for each cost by each thing that grows; every turn is a point, medians are joined, axes logarithmic.

    Args:
        rows: of Growth.measured.
        finding: the title.
    """
    grown = [name for name in AXES if name in set(rows["grows"])]
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(len(COSTS), len(grown), squeeze=False)
    for line, (cost, label) in zip(panels, COSTS.items(), strict=True):
        for axes, name in zip(line, grown, strict=True):
            for loss, colour in LOSS_COLOURS.items():
                own = rows[(rows["grows"] == name) & (rows["loss"] == loss)]
                if own.empty:
                    continue
                medians = own.groupby("value")[cost].median()
                axes.plot(own["value"], own[cost], "o", color=colour, markersize=4, alpha=0.6)
                axes.plot(medians.index, medians, color=colour, label=loss.replace("_", " "))
            axes.set_xscale("log")
            axes.set_yscale("log")
            sizes = sorted(set(rows.loc[rows["grows"] == name, "value"]))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8), numticks=20))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.set_xlabel(AXES[name])
            axes.set_ylabel(label)
            uncluttered(axes)
    panels[0, 0].legend(frameon=False, fontsize=9)
    num_turns = int(rows.groupby(["grows", "value", "loss"]).size().max())
    title = textwrap.fill(f"{finding} (n = up to {num_turns} turns a point)", TITLE_WIDTH)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def finding(rows: pd.DataFrame) -> str:
    """What the largest point of each axis costs beside the smallest, under sampled softmax."""
    parts = []
    for name, label in AXES.items():
        own = rows[(rows["grows"] == name) & (rows["loss"] == "sampled_softmax")]
        if own["value"].nunique() > 1:
            medians = own.groupby("value")[list(COSTS)].median()
            first, last = medians.iloc[0], medians.iloc[-1]
            parts.append(
                f"from {medians.index[0]:,} to {medians.index[-1]:,} {label} a step takes "
                f"{last['step_cpu_ms'] / first['step_cpu_ms']:.1f} times the time and "
                f"{last['peak_gb'] / first['peak_gb']:.1f} times the memory"
            )
    return "sampled softmax: " + "; ".join(parts)
