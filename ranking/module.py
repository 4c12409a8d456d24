"""The training loop of stage 2, for teacher and student alike.

Owns what happens in a step: label loss on sampled lists and, where a teacher has scored the list, its distillation.
"""

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ranking.data import RankerLists
from ranking.losses import distillation, listwise_softmax
from ranking.model import Ranker


class RankerModule(pl.LightningModule):
    """Trains a Ranker on sampled lists whose first candidate is the relevant one.

    Args:
        model: the ranker.
        learning_rate: of everything but the encoder.
        encoder_learning_rate: of the encoder.
        weight_decay: of AdamW.
        distillation_weight: of the teacher's part against the label's, where the teacher has scored.
        temperature: of the distillation.
        num_steps: optimiser steps in all; the rate rises for a tenth of them and then falls to 0.
        spec_hash: hash of the feature spec, kept in checkpoints.
    """

    def __init__(
        self,
        *,
        model: Ranker,
        learning_rate: float,
        encoder_learning_rate: float,
        weight_decay: float,
        distillation_weight: float,
        temperature: float,
        num_steps: int,
        spec_hash: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.encoder_learning_rate = encoder_learning_rate
        self.weight_decay = weight_decay
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.num_steps = num_steps
        self.spec_hash = spec_hash

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of a batch of lists: tokens [P, C, S], dense [P, C, F], teacher [P, C], has_teacher [P]."""
        tokens, dense, teacher_scores, has_teacher = batch
        scores = self.model(tokens, dense)
        relevance = torch.zeros_like(scores)
        relevance[:, 0] = 1.0
        loss = listwise_softmax(scores, relevance)
        if self.distillation_weight > 0.0:
            taught = distillation(scores, teacher_scores, temperature=self.temperature)
            loss = loss + self.distillation_weight * torch.where(has_teacher, taught, 0.0)
        mean = loss.mean()
        self.log("train/loss", mean, prog_bar=True)
        return mean

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, the encoder at a rate of its own; linear warm-up, then linear decay."""
        encoder = [] if self.model.encoder is None else [p for p in self.model.encoder.parameters() if p.requires_grad]
        known = {id(parameter) for parameter in encoder}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        groups = [
            {"params": others, "lr": self.learning_rate},
            *([{"params": encoder, "lr": self.encoder_learning_rate}] if encoder else []),
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        warm_up = max(self.num_steps // 10, 1)

        def rate(step: int) -> float:
            return min((step + 1) / warm_up, max(self.num_steps - step, 0) / max(self.num_steps - warm_up, 1))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the feature spec's hash beside the weights."""
        checkpoint["spec_hash"] = self.spec_hash


class RankerData(pl.LightningDataModule):
    """Sampled lists, drawn anew each epoch.

    Args:
        lists: training lists.
        teacher_scores: [N, C] of the lists, NaN where the teacher has not scored; None without a teacher.
        num_negatives: sampled for each relevant candidate.
        batch_size: lists a step.
        seed: of the sampling, together with the epoch.
    """

    def __init__(
        self,
        *,
        lists: RankerLists,
        teacher_scores: NDArray[np.float32] | None,
        num_negatives: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.lists = lists
        self.teacher_scores = teacher_scores
        self.num_negatives = num_negatives
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (tokens, dense, teacher scores, whether there are any)."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        generator = np.random.default_rng([self.seed, epoch])
        scored = None if self.teacher_scores is None else np.isfinite(self.teacher_scores)
        lists, places = self.lists.samples(num_negatives=self.num_negatives, generator=generator, scored=scored)
        rows = lists[:, None]
        if self.teacher_scores is None:
            teacher = np.zeros(places.shape, dtype=np.float32)
            has_teacher = np.zeros(len(places), dtype=np.bool_)
        else:
            teacher = self.teacher_scores[rows, places]
            has_teacher = np.asarray(np.isfinite(teacher).all(axis=1))
            teacher = np.where(has_teacher[:, None], teacher, 0.0).astype(np.float32)
        tensors = TensorDataset(
            torch.from_numpy(self.lists.tokens[rows, places].astype(np.int64)),
            torch.from_numpy(self.lists.dense[rows, places]),
            torch.from_numpy(teacher),
            torch.from_numpy(has_teacher),
        )
        return DataLoader(
            tensors,
            batch_size=self.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch),
            pin_memory=torch.cuda.is_available(),
        )
