from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.dataset import Dataset, EventLog
from features.requests import each_event
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.transforms import ItemInputs
from features.vocab import FIRST, Vocabularies
from towers.data import HeldOut, TowerData, held_out, training_windows
from towers.losses.loss import Loss
from towers.losses.softmax import Softmax
from towers.model import ItemTable, TowerSizes, TwoTower, build_two_tower
from towers.module import TowersModule
from towers.negatives.frequency import Frequency
from towers.negatives.items import QueryRows
from towers.negatives.sampler import NegativeSource
from towers.query_towers.causal import CausalQueryTower

TEXT_WIDTH = 6


@dataclass(frozen=True)
class World:
    """A log in memory with all that the towers need of it."""

    dataset: Dataset
    spec: FeatureSpec
    vocabularies: Vocabularies
    items: ItemInputs

    def model(self, *, seed: int, dropout: float = 0.0, id_dropout: float = 0.0, width: int = 8) -> TwoTower:
        texts = np.random.default_rng(0).normal(size=(len(self.dataset.items.catalogue), TEXT_WIDTH))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_two_tower(
                sizes=TowerSizes.of(self.spec, self.vocabularies, text_width=TEXT_WIDTH),
                item_table=ItemTable(items=self.items, text_embeddings=texts.astype(np.float32)),
                width=width,
                id_dropout=id_dropout,
                query_tower=partial(CausalQueryTower, num_blocks=1, dropout=dropout),
            )

    def module(
        self,
        model: TwoTower,
        *,
        learning_rate: float = 0.01,
        loss: Loss | None = None,
        negatives: NegativeSource | None = None,
    ) -> TowersModule:
        """Sampled softmax over 16 negatives, unless another loss or another source is given."""
        events = self.dataset.events
        item_counts = np.bincount(
            self.dataset.event_rows()[events.positives(["train"])], minlength=len(self.dataset.items.catalogue)
        )
        places = events.places(["train"])
        per_query = np.bincount(events.query_of(places), minlength=len(events.query_ids))
        return TowersModule(
            model=model,
            loss=loss or Softmax(full_up_to=0),
            negatives=negatives or Frequency(num_negatives=16, exponent=0.5),
            item_counts=item_counts,
            recommendable=(item_counts > 0) & (np.arange(len(item_counts)) >= FIRST),
            learning_rate=learning_rate,
            weight_decay=0.01,
            spec_hash=self.spec.hash,
            of_queries=QueryRows(offsets=np.r_[0, per_query.cumsum()], rows=self.dataset.event_rows()[places]),
        )

    def held_out(self, split: str) -> HeldOut:
        return held_out(self.dataset, each_event(self.dataset, split), spec=self.spec, vocabularies=self.vocabularies)

    def data(
        self,
        *,
        batch_size: int = 16,
        seed: int = 1,
        validation: str | None = "validation",
        epoch_steps: int | None = None,
        module: TowersModule | None = None,
    ) -> TowerData:
        """Batches of windows, or of what a module's training step reads."""
        return TowerData(
            windows=training_windows(self.dataset, ["train"], spec=self.spec, vocabularies=self.vocabularies),
            validation=None if validation is None else self.held_out(validation),
            batch_size=batch_size,
            seed=seed,
            epoch_steps=epoch_steps,
            make_batch=None if module is None else module.make_batch,
        )


BuildWorld = Callable[..., World]


def _build_world(
    histories: dict[str, list[tuple[str, str]]],
    *,
    item_ids: list[str],
    history_length: int,
    refused: Collection[int] = (),
    stored_history: int = 1000,
    repeats: bool = False,
) -> World:
    """A world of these histories.

    Args:
        histories: (item, split) of each query's events in order of time; a query's events are an hour apart.
        item_ids: the catalogue.
        history_length: L.
        refused: places in the log of the events without relevance.
        stored_history: of the spec.
        repeats: of the spec.
    """
    columns = FeatureColumns(
        query_categories=("gender",),
        query_numbers=("age",),
        item_categories=("colour", "shape"),
        item_numbers=("size",),
        item_texts=("title",),
        history_length=history_length,
        stored_history=stored_history,
        repeats=repeats,
        category_length=2,
        min_category_count=1,
    )
    query_ids = sorted(histories)
    events = [(item_id, split, place) for query in query_ids for place, (item_id, split) in enumerate(histories[query])]
    colours = ["red", "green", "blue"]
    dataset = Dataset(
        name="world",
        events=EventLog(
            query_ids=tuple(query_ids),
            offsets=np.cumsum([0, *(len(histories[query]) for query in query_ids)]),
            item_ids=tuple(item_id for item_id, _, _ in events),
            events=("view",) * len(events),
            values=np.array([1.0 + place for _, _, place in events]),
            at_ms=np.array([100 * DAY_MS + 3_600_000 * place for _, _, place in events], dtype=np.int64),
            relevance=np.array([float(place not in refused) for place in range(len(events))]),
            splits=np.array([split for _, split, _ in events], dtype=np.str_),
        ),
        items=ItemColumns(
            catalogue=Catalogue(tuple(item_ids)),
            categories={
                "colour": [[colours[place % 3]] for place in range(len(item_ids))],
                "shape": [["round", "flat"][: place % 3] for place in range(len(item_ids))],
            },
            numbers={"size": np.arange(len(item_ids), dtype=np.float64)},
            texts={"title": list(item_ids)},
        ),
        query_texts=[""] * len(query_ids),
        query_categories={"gender": [["F", "M", ""][place % 3] for place in range(len(query_ids))]},
        query_numbers={"age": [float(20 + place) for place in range(len(query_ids))]},
        titles=tuple(item_ids),
        item_days=pa.table({}),
        available_days=np.full(len(item_ids), np.nan),
    )
    vocabularies = dataset.fit_vocabularies(["train"], columns=columns)
    return World(
        dataset=dataset,
        spec=columns.spec(text=TextLayout(), ranker_features=()),
        vocabularies=vocabularies,
        items=_items_of(dataset, vocabularies),
    )


def _items_of(dataset: Dataset, vocabularies: Vocabularies) -> ItemInputs:
    """The item table without tokens, which the towers do not read."""
    num_rows = len(dataset.items.catalogue)
    item_id = np.array([0, 1, *vocabularies.categories["item_id"].encode(dataset.items.catalogue.item_ids)])
    categories = np.zeros((num_rows, 2, 2), dtype=np.int64)
    for column, name in enumerate(("colour", "shape")):
        for row, values in enumerate(dataset.items.categories[name], start=FIRST):
            categories[row, column, : len(values)] = vocabularies.categories[name].encode(values)
    numbers = np.zeros((num_rows, 1), dtype=np.float32)
    numbers[FIRST:, 0] = vocabularies.numbers["size"].scale(dataset.items.numbers["size"])
    no_tokens = np.zeros((num_rows, 1), dtype=np.int32)
    return ItemInputs(
        item_id=item_id, categories=categories, numbers=numbers, title_tokens=no_tokens, text_tokens=no_tokens
    )


@pytest.fixture(scope="session")
def build_world() -> BuildWorld:
    return _build_world


@pytest.fixture(scope="session")
def ring() -> World:
    """30 items in a ring and 60 queries that walk it, six steps of training and one to validate on.

    What comes next follows from where a query stands, so it can be learnt from few events.
    """
    item_ids = [f"i{number:02}" for number in range(30)]
    histories = {
        f"q{start:02}": [(item_ids[(start + step) % 30], "train" if step < 6 else "validation") for step in range(7)]
        for start in range(60)
    }
    return _build_world(histories, item_ids=item_ids, history_length=8)
