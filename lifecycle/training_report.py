"""What a training of the towers looked like: a row an epoch, a figure of them, and a page of both cuts.

Owns how epochs are written down. Knows nothing of towers, and decides nothing about training.

    <cut>/curves/curves.csv   a row an epoch, written as training goes
    <cut>/curves/curves.png   the same as a figure
    report.txt                both cuts
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from evaluation.plots import BLUE, VERMILION, save_plot, uncluttered

REPORT_DIR = "curves"
TABLE_FILE, FIGURE_FILE = "curves.csv", "curves.png"
EPOCH_LOSS = "train/epoch_loss"
VALIDATION = "validation/"
TITLE_WIDTH = 50  # characters above a panel
LABELS = {"validation/ndcg@10": "NDCG@10", "validation/recall@100": "Recall@100"}


class Curves(Callback):
    """Writes a row for every epoch: its mean loss, the rate at its end and what validation found.

    The rows are in the checkpoints, so a run that was killed and goes on has all of them.

    Args:
        directory: of the report.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.epochs: list[dict[str, float]] = []
        self._losses: list[Tensor] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a row."""
        self._losses.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Keep the loss where it is: looking at it would make the host wait."""
        self._losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the row: a checkpoint of this epoch comes after, and holds it."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(VALIDATION)}
        loss = float(torch.stack(self._losses).double().mean())
        row = {
            "epoch": trainer.current_epoch + 1,
            "steps": trainer.global_step,
            EPOCH_LOSS: loss,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **found,
        }
        self.epochs.append(row)
        if trainer.is_global_zero:
            self.directory.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(self.epochs).to_csv(self.directory / TABLE_FILE, index=False)
        for logger in trainer.loggers:
            logger.log_metrics({EPOCH_LOSS: loss}, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Rows of the epochs so far."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from them."""
        self.epochs = list(state_dict["epochs"])


def curves_figure(table: pd.DataFrame, *, name: str, best_epoch: int, num_requests: int) -> Figure:
    """Loss by epoch and, where there was validation, its metrics; a line marks the epoch that is kept.

    Args:
        table: a row an epoch, as `Curves` writes them.
        name: of the cut.
        best_epoch: the one that is kept, from 1 on.
        num_requests: that validation measured; 0: there was none.
    """
    metrics = [column for column in LABELS if column in table]
    figure = Figure(figsize=(4.6 * (1 + len(metrics)), 3.6), layout="constrained")
    epochs = table["epoch"].to_numpy(dtype=np.int64)
    for place, (axes, column) in enumerate(
        zip(np.ravel(figure.subplots(1, 1 + len(metrics))), [EPOCH_LOSS, *metrics], strict=True)
    ):
        label = "training loss in nats, mean of an epoch" if place == 0 else f"{LABELS[column]} on validation"
        _draw(axes, epochs, table[column].to_numpy(dtype=np.float64), best_epoch=best_epoch, label=label)
    said = finding(table, name=name, best_epoch=best_epoch, num_requests=num_requests)
    figure.suptitle(textwrap.fill(said, TITLE_WIDTH * (1 + len(metrics))), x=0.01, ha="left", fontsize=11)
    return figure


def _draw(
    axes: Axes, epochs: "np.ndarray[Any, Any]", values: "np.ndarray[Any, Any]", *, best_epoch: int, label: str
) -> None:
    axes.plot(epochs, values, "o-", color=BLUE, markersize=4)
    axes.axvline(best_epoch, color=VERMILION, linestyle=":")
    axes.set_xlabel("epoch (dotted: kept)")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    uncluttered(axes)


def finding(table: pd.DataFrame, *, name: str, best_epoch: int, num_requests: int) -> str:
    """What the curves say, in a sentence."""
    losses = table[EPOCH_LOSS].to_numpy(dtype=np.float64)
    said = f"{name}: the loss goes from {losses[0]:.3f} to {losses[-1]:.3f} in {len(table)} epochs"
    if not num_requests:
        return f"{said}; as many as were best for the fold"
    best = table[table["epoch"] == best_epoch].iloc[0]
    values = ", ".join(f"{label} {best[column]:.3f}" for column, label in LABELS.items() if column in table)
    return f"{said}; best on validation after epoch {best_epoch}: {values} (n = {num_requests} requests)"


def write_curves(directory: Path, *, name: str, best_epoch: int, num_requests: int) -> None:
    """Draw the epochs that lie in a report's directory."""
    table = pd.read_csv(directory / TABLE_FILE)
    figure = curves_figure(table, name=name, best_epoch=best_epoch, num_requests=num_requests)
    save_plot(figure, table=table, path=directory / FIGURE_FILE)


def write_report(directory: Path, *, cuts: Sequence[str], facts: Mapping[str, str]) -> None:
    """Say what was trained from what, and each cut's epochs, in report.txt."""
    lines = [f"{name.ljust(20)}{value}" for name, value in facts.items()]
    for cut in cuts:
        table = pd.read_csv(directory / cut / REPORT_DIR / TABLE_FILE)
        lines += ["", f"{cut}, an epoch a line ({cut}/{REPORT_DIR}/{FIGURE_FILE})", table.to_string(index=False)]
    (directory / "report.txt").write_text("\n".join(lines) + "\n")
