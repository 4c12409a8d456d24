"""Turns of a training that Lightning runs. Lightning alone: a peer imports it with its own interpreter."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from lifecycle.turns import Turns


class TakesTurns(pl.Callback):
    """Counts targets and the time between steps, which is the wait for data.

    Args:
        turns: of this process.
        num_targets: of a batch.
    """

    def __init__(self, turns: Turns, *, num_targets: Callable[[Any], int]) -> None:
        self.turns = turns
        self.num_targets = num_targets

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All is prepared."""
        self.turns.begin()
        self._ended_s = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, step: int) -> None:
        """The batch is there."""
        self._waited_s = time.perf_counter() - self._ended_s

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """The optimiser has made its step."""
        self.turns.step(num_targets=self.num_targets(batch), waited_s=self._waited_s)
        self._ended_s = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the turn away before the model is asked anything."""
        self.turns.end()
