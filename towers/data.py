"""Batches for stage 1: windows of histories in which every position has a target, and past requests to validate on.

Owns the cut of an event log into training windows. Turning raw values into arrays is features.transforms' job.

Shapes: W windows, L history length, R rows of the item table, V requests to validate on, M relevant items of the one
that has most, H items of the longest history, E width of a text embedding or of a row of tokens (0 where queries
have no text).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from features.dataset import Dataset
from features.requests import PastRequests
from features.spec import FeatureSpec
from features.text import TextTokenizer
from features.tower_inputs import read_as_encoded
from features.transforms import QueryInputs, query_inputs
from features.vocab import PADDING, Vocabularies

VALIDATION_BATCH = 256  # requests: their scores of 100,000 items take 100 MB


class QueryTexts(Protocol):
    """What batches carry of what queries say: embeddings, or tokens where their encoder is trained."""

    tokenizer: TextTokenizer

    def embed(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        """[N, S] -> [N, E]."""


@dataclass(frozen=True)
class HeldOut:
    """Requests to answer.

    Attributes:
        inputs: of V queries as they asked.
        texts: [V, E] of what the queries say; see QueryTexts.
        relevant: [V, M] ItemRow of what was then chosen, PADDING where there are fewer.
        excluded: [V, H] ItemRow of what is not to be shown: what the queries had, unless it may be shown again.
    """

    inputs: QueryInputs
    texts: NDArray[Any]
    relevant: NDArray[np.int64]
    excluded: NDArray[np.int64]


def held_out(
    dataset: Dataset,
    asked: PastRequests,
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    query_texts: QueryTexts | None = None,
) -> HeldOut:
    """Past requests as arrays."""
    inputs = query_inputs(
        asked.states(dataset, length=spec.stored_history),
        spec=spec,
        vocabularies=vocabularies,
        catalogue=dataset.items.catalogue,
        tokenizer=None if query_texts is None else query_texts.tokenizer,
    )
    return HeldOut(
        inputs=inputs,
        texts=_texts(inputs, query_texts),
        relevant=asked.relevant,
        excluded=inputs.seen_rows[:, : 0 if spec.repeats else None],
    )


@dataclass(frozen=True)
class Windows:
    """W training windows: the inputs of one event each, and a target for every position of its history."""

    inputs: QueryInputs
    texts: NDArray[Any]  # [W, E] see QueryTexts
    queries: NDArray[np.int64]  # [W] which of the log's queries each window is of
    # [W, L] ItemRow that follows each position; PADDING where there is nothing to learn: no event, or one that says no
    targets: NDArray[np.int64]


def training_windows(
    dataset: Dataset,
    splits: Collection[str],
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    query_texts: QueryTexts | None = None,
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
    rows = np.where(dataset.events.relevance > 0, dataset.event_rows(), PADDING)
    # The events that follow each position: the window's own, and the newest before it shifted by one.
    following = places[:, None] - np.arange(length - 1, -1, -1)
    is_own = following >= dataset.events.offsets[dataset.events.query_of(places)][:, None]
    targets = np.where(is_own, rows[np.maximum(following, 0)], PADDING)
    teaches = (targets != PADDING).any(axis=1)
    places, targets = places[teaches], targets[teaches]
    inputs = query_inputs(
        dataset.before(places, length=min(length, spec.stored_history)),
        spec=spec,
        vocabularies=vocabularies,
        catalogue=dataset.items.catalogue,
        tokenizer=None if query_texts is None else query_texts.tokenizer,
    )
    return Windows(
        inputs=inputs,
        texts=_texts(inputs, query_texts),
        queries=dataset.events.query_of(places),
        targets=targets,
    )


def query_tensors(inputs: QueryInputs, texts: NDArray[Any]) -> tuple[Tensor, ...]:
    """History rows, then what the query tower reads beside their embeddings, in the order of QueryTowerInputs."""
    arrays = (inputs.history_rows, *read_as_encoded(inputs).values(), texts)
    return tuple(torch.from_numpy(array) for array in arrays)


def _texts(inputs: QueryInputs, query_texts: QueryTexts | None) -> NDArray[Any]:
    if query_texts is None:
        return np.zeros((len(inputs.text_tokens), 0), dtype=np.float32)
    return query_texts.embed(inputs.text_tokens)


class WindowTensors(TensorDataset):
    """Gives a batch as one selection of each tensor: window by window it cost as much as all else on the host."""

    def __getitems__(self, places: list[int]) -> list[Tensor]:
        """Of the windows at these places, in their order."""
        chosen = torch.tensor(places)
        return [tensor[chosen] for tensor in self.tensors]


class TowerData(pl.LightningDataModule):
    """Windows to train on and, if there are any, past requests to validate on.

    Args:
        windows: to train on.
        validation: requests; None validates on nothing.
        batch_size: windows a step.
        seed: of the order.
        epoch_steps: batches of an epoch at most, drawn anew each time; None: all windows are an epoch.
        make_batch: makes what a training step reads of the tensors of some windows; None leaves them as they are.
    """

    def __init__(
        self,
        *,
        windows: Windows,
        validation: HeldOut | None,
        batch_size: int,
        seed: int,
        epoch_steps: int | None = None,
        make_batch: Callable[[Sequence[Tensor]], Sequence[object]] | None = None,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        self.epoch_steps = epoch_steps
        self.make_batch = make_batch

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (*query_tensors, targets, queries), shuffled by seed and epoch; of W ranks each has a W-th.

        The trainer asks again at every epoch (reload_dataloaders_every_n_epochs=1), so a resumed run sees the order
        that it would have seen.
        """
        epoch, rank, ranks = 0, 0, 1
        if self.trainer is not None:
            epoch, rank, ranks = self.trainer.current_epoch, self.trainer.global_rank, self.trainer.world_size
        tensors = WindowTensors(
            *query_tensors(self.windows.inputs, self.windows.texts),
            torch.from_numpy(self.windows.targets),
            torch.from_numpy(self.windows.queries),
        )
        # Drawn here and not by the loader: Lightning makes its iterator once or, unless it resumes, twice in an epoch.
        order = torch.randperm(len(tensors), generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
        order = order[: None if self.epoch_steps is None else self.epoch_steps * self.batch_size]
        if ranks > 1:  # as many steps each: a rank that had one more would wait for the others for ever
            order = order[: len(order) - len(order) % ranks][rank::ranks]
        return DataLoader(
            tensors,
            batch_size=self.batch_size,
            sampler=order.tolist(),
            collate_fn=self._collate,
            generator=torch.Generator(),  # of its own, so that iterators draw nothing from that of the negatives
            pin_memory=torch.cuda.is_available(),
        )

    def _collate(self, windows: Sequence[Tensor]) -> Sequence[object]:
        return windows if self.make_batch is None else self.make_batch(windows)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]] | list[object]:
        """Batches of (*query_tensors, relevant rows, excluded rows), in order: all of them on every rank."""
        if self.validation is None:
            return []
        held = self.validation
        tensors = TensorDataset(
            *query_tensors(held.inputs, held.texts),
            torch.from_numpy(held.relevant),
            torch.from_numpy(held.excluded),
        )
        return DataLoader(tensors, batch_size=VALIDATION_BATCH, pin_memory=torch.cuda.is_available())
