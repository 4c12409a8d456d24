"""Stops a training whose loss is no number any more, and keeps the batch with which that began.

Owns when losses are looked at: looking makes the host wait for the device, so it is not done in every step.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor

from towers.errors import LossNotFinite
from towers.training_batch import TrainingBatch


class LossGuard(Callback):
    """Looks at the losses of the last steps every so many, and at the end of an epoch, before anything is saved.

    It holds on to those steps' batches meanwhile, which are small beside the towers' activations.

    Args:
        every_n_steps: steps between two looks.
        save_to: file without suffix; the batch goes beside it as safetensors, with a rank's number where there are
            several ranks.
    """

    def __init__(self, *, every_n_steps: int, save_to: Path) -> None:
        self.every_n_steps = every_n_steps
        self.save_to = save_to
        self._losses: list[Tensor] = []
        self._batches: list[TrainingBatch] = []
        self._before: TrainingBatch | None = None  # the last batch of the last look

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Keep the step's loss and batch, and look if it is time.

        Raises:
            LossNotFinite: a loss since the last look is infinite or not a number.
        """
        self._losses.append(outputs["loss"].detach())
        self._batches.append(batch)
        if len(self._losses) < self.every_n_steps and not trainer.is_last_batch:
            return
        is_finite = torch.stack(self._losses).isfinite().tolist()
        if not all(is_finite):
            self._stop(is_finite.index(False), trainer)
        self._before = self._batches[-1]
        self._losses.clear()
        self._batches.clear()

    def _stop(self, place: int, trainer: pl.Trainer) -> None:
        step = trainer.global_step - len(self._losses) + place + 1
        rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.save_to.with_name(f"{self.save_to.name}{rank}.safetensors")
        before = self._batches[place - 1] if place else self._before
        tensors = _named("batch", self._batches[place]) | ({} if before is None else _named("batch_before", before))
        save_file(tensors, path)
        raise LossNotFinite(
            f"the loss of step {step} is {self._losses[place].item()}; its batch, and the one before, whose gradient "
            f"may have done it, are in {path}: look there for values that are no numbers, else lower "
            "optimisation.learning_rate"
        )


def _named(prefix: str, batch: TrainingBatch) -> dict[str, Tensor]:
    """Tensors of a batch by name, on the host and each with memory of its own."""
    named: dict[str, Tensor] = {}
    for field, value in batch._asdict().items():
        parts = (
            {field: value} if isinstance(value, Tensor) else {f"{field}.{at}": part for at, part in enumerate(value)}
        )
        for name, part in parts.items():
            named[f"{prefix}.{name}"] = part.detach().cpu().clone(memory_format=torch.contiguous_format)
    return named
