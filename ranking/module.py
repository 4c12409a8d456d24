"""The training loop of stage 2, for teacher and student alike.

Owns what happens in a step: label loss on sampled lists and, where a teacher has scored the list, its distillation.
"""

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from ranking.data import RankerLists
from ranking.losses import listwise_softmax
from ranking.model import RankerParts
from ranking.texts import Texts

# A student's scores and its teacher's of some lists [P, C] -> the loss of each [P].
Distillation = Callable[[Tensor, Tensor], Tensor]


class RankerModule(pl.LightningModule):
    """Trains a Ranker on sampled lists whose first candidate is the relevant one.

    Args:
        model: the ranker.
        learning_rate: of everything but the encoder.
        encoder_learning_rate: of the encoder.
        weight_decay: of AdamW.
        distillation: from the teacher's scores, where it has scored; None without one.
        distillation_weight: of its part against the label's.
        num_steps: optimiser steps in all; the rate rises for a tenth of them and then falls to 0.
        spec_hash: hash of the feature spec, kept in checkpoints.
    """

    def __init__(
        self,
        *,
        model: RankerParts,
        learning_rate: float,
        encoder_learning_rate: float,
        weight_decay: float,
        distillation: Distillation | None,
        distillation_weight: float,
        num_steps: int,
        spec_hash: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.encoder_learning_rate = encoder_learning_rate
        self.weight_decay = weight_decay
        self.distillation = distillation
        self.distillation_weight = distillation_weight
        self.num_steps = num_steps
        self.spec_hash = spec_hash

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Mean loss of a batch of lists: texts, dense [P, C, F], teacher [P, C], has_teacher [P]."""
        *texts, dense, teacher_scores, has_teacher = batch
        scores = self.model(*texts, dense)
        relevance = torch.zeros_like(scores)
        relevance[:, 0] = 1.0
        loss = listwise_softmax(scores, relevance)
        if self.distillation is not None and self.distillation_weight > 0.0:
            taught = self.distillation(scores, teacher_scores)
            loss = loss + self.distillation_weight * torch.where(has_teacher, taught, 0.0)
        mean = loss.mean()
        self.log("train/loss", mean, prog_bar=True)
        return mean

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, the encoder at a rate of its own; linear warm-up, then linear decay."""
        read = self.model.encoder
        encoder = [p for p in read.parameters() if p.requires_grad] if isinstance(read, nn.Module) else []
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
        texts: of the same lists, as the ranker reads them.
        teacher_scores: [N, C] of the lists, NaN where the teacher has not scored; None without a teacher.
        num_negatives: sampled for each relevant candidate.
        batch_size: lists a step.
        seed: of the sampling, together with the epoch.
    """

    def __init__(
        self,
        *,
        lists: RankerLists,
        texts: Texts,
        teacher_scores: NDArray[np.float32] | None,
        num_negatives: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.lists = lists
        self.texts = texts
        self.teacher_scores = teacher_scores
        self.num_negatives = num_negatives
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (texts, dense, teacher scores, whether there are any); texts are what `Texts.of` says."""
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
        sampled = _Sampled(
            texts=self.texts,
            lists=lists,
            places=places,
            others=tuple(map(torch.from_numpy, (self.lists.dense[rows, places], teacher, has_teacher))),
        )
        order = RandomSampler(sampled, generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
        return DataLoader(
            sampled,
            batch_size=None,  # a batch is gathered at once, not sample by sample
            sampler=BatchSampler(order, batch_size=self.batch_size, drop_last=False),
            pin_memory=torch.cuda.is_available(),
        )


class _Sampled(Dataset[tuple[Tensor, ...]]):
    """Samples of an epoch; texts are gathered batch by batch, for states of all of them would fill the memory."""

    def __init__(
        self, *, texts: Texts, lists: NDArray[np.int64], places: NDArray[np.int64], others: tuple[Tensor, ...]
    ) -> None:
        self.texts = texts
        self.lists = lists
        self.places = places
        self.others = others

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, ...]:
        own = np.array(numbers)
        return (*self.texts.of(self.lists[own], self.places[own]), *(other[own] for other in self.others))
