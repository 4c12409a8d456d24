"""Batches for stage 1: windows of histories in which every position has a target, and held-out events to validate on.

Owns the cut of an event log into training windows. Turning raw values into arrays is features.transforms' job.

Shapes: W windows, L history length, R rows of the item table, V validation events.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from features.dataset import Dataset
from features.spec import FeatureSpec
from features.transforms import QueryInputs, query_inputs
from features.vocab import Vocabularies


@dataclass(frozen=True)
class HeldOut:
    """Events to predict.

    Attributes:
        inputs: of V queries strictly before their event, with all their earlier items as `seen_rows`.
        targets: [V] ItemRow of the event.
        places: [V] place of the event in the log.
    """

    inputs: QueryInputs
    targets: NDArray[np.int64]
    places: NDArray[np.int64]


def held_out(dataset: Dataset, split: str, *, spec: FeatureSpec, vocabularies: Vocabularies) -> HeldOut:
    """The events of one split as queries with one relevant item each."""
    places = dataset.events.places([split])
    queries = dataset.before(places, length=None)
    inputs = query_inputs(queries, spec=spec, vocabularies=vocabularies, catalogue=dataset.items.catalogue)
    return HeldOut(inputs=inputs, targets=dataset.event_rows()[places], places=places)


@dataclass(frozen=True)
class Windows:
    """W training windows: the inputs of one event each, and a target for every position of its history."""

    inputs: QueryInputs
    targets: NDArray[np.int64]  # [W, L] ItemRow that follows each position; PADDING where there is nothing to learn


def training_windows(
    dataset: Dataset, splits: Collection[str], *, spec: FeatureSpec, vocabularies: Vocabularies
) -> Windows:
    """Cut each query's events into windows of L targets, from the newest backwards.

    Position t of a window learns the item of position t + 1, the last one the window's own event, and the padding
    before a query's first event learns that event: this is what a query without history is answered from.
    """
    length = spec.history_length
    is_training = np.isin(dataset.events.splits, list(splits))
    ends: list[int] = []
    for start, stop in zip(dataset.events.offsets[:-1], dataset.events.offsets[1:], strict=True):
        last = start + int(is_training[start:stop].sum())  # splits follow one another in time within a query
        ends.extend(range(last - 1, start - 1, -length))
    places = np.array(ends, dtype=np.int64)
    inputs = query_inputs(
        dataset.before(places, length=length),
        spec=spec,
        vocabularies=vocabularies,
        catalogue=dataset.items.catalogue,
    )
    targets = np.concatenate([inputs.history_rows[:, 1:], dataset.event_rows()[places, None]], axis=1)
    return Windows(inputs=inputs, targets=targets)


def query_tensors(inputs: QueryInputs) -> tuple[Tensor, Tensor, Tensor]:
    """What the query tower reads of QueryInputs, as tensors: history rows, categories, numbers."""
    return torch.from_numpy(inputs.history_rows), torch.from_numpy(inputs.categories), torch.from_numpy(inputs.numbers)


class TowerData(pl.LightningDataModule):
    """Windows to train on and, if there are any, held-out events to validate on."""

    def __init__(self, *, windows: Windows, validation: HeldOut | None, batch_size: int, seed: int) -> None:
        super().__init__()
        self.windows = windows
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (history rows, categories, numbers, targets), shuffled by seed and epoch.

        The trainer asks again at every epoch (reload_dataloaders_every_n_epochs=1), so a resumed run sees the order
        that it would have seen.
        """
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        tensors = TensorDataset(*query_tensors(self.windows.inputs), torch.from_numpy(self.windows.targets))
        # Drawn here and not by the loader: Lightning makes its iterator once or, unless it resumes, twice in an epoch.
        order = torch.randperm(len(tensors), generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
        return DataLoader(
            tensors,
            batch_size=self.batch_size,
            sampler=order.tolist(),
            generator=torch.Generator(),  # of its own, so that iterators draw nothing from that of the negatives
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]] | list[object]:
        """Batches of (history rows, categories, numbers, targets, seen rows), in order."""
        if self.validation is None:
            return []
        held = self.validation
        tensors = TensorDataset(
            *query_tensors(held.inputs), torch.from_numpy(held.targets), torch.from_numpy(held.inputs.seen_rows)
        )
        return DataLoader(tensors, batch_size=1024, pin_memory=torch.cuda.is_available())
