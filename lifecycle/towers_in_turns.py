"""The towers as a trainee: trained in turns on some splits, and asked for lists when training has ended.

Owns no settings: the towers, the loss and the steps are those of training; validation, checkpoints and the export that
follow in train_towers.py are not what is measured.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from evaluation.lists import RankedLists, top_items
from features.columns import FeatureColumns
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.spec import FeatureSpec
from features.tower_inputs import QueryTowerInputs
from features.vocab import FIRST, Vocabularies
from lifecycle.cuts import Cut
from lifecycle.lightning_turns import TakesTurns
from lifecycle.train_towers import EpochSeed, Optimisation
from lifecycle.training_tables import item_counts, item_tables, query_rows
from lifecycle.turns import Turns
from towers.data import TowerData, held_out, query_tensors, training_windows
from towers.losses.loss import Loss
from towers.model import ItemTable, TowerSizes, TwoTower
from towers.module import TowersModule
from towers.negatives.sampler import NegativeSource
from towers.text_encoder import TextEncoder


@dataclass(frozen=True)
class TowersInTurns:
    """What is trained, and what it is asked."""

    dataset: Dataset
    protocol: RequestProtocol
    columns: FeatureColumns
    spec: FeatureSpec
    text_encoder: TextEncoder
    build_model: Callable[..., TwoTower]
    loss: Loss
    negatives: NegativeSource
    optimisation: Optimisation
    build_trainer: Callable[..., pl.Trainer]
    splits: Collection[str]
    asked: str

    def run(self, turns: Turns, *, lists: Path, k: int) -> None:
        """Train in turns, then write `lists` (query_id, item_id, rank) for the requests of the split `asked`."""
        cut = Cut(name="bench", splits=tuple(self.splits), validation=None)
        pl.seed_everything(self.optimisation.seed, workers=True, verbose=False)
        vocabularies = self.dataset.fit_vocabularies(cut.splits, columns=self.columns)
        module = self._module(cut, vocabularies)
        data = TowerData(
            windows=training_windows(self.dataset, cut.splits, spec=self.spec, vocabularies=vocabularies),
            validation=None,
            batch_size=self.optimisation.batch_size,
            seed=self.optimisation.seed,
            epoch_steps=self.optimisation.epoch_steps,
            make_batch=module.make_batch,
        )
        trainer = self.build_trainer(
            callbacks=[
                EpochSeed(self.optimisation.seed),
                TakesTurns(turns, num_targets=lambda batch: len(batch.positions)),
            ],
            logger=False,
            enable_checkpointing=False,
            reload_dataloaders_every_n_epochs=1,
        )
        trainer.fit(module, datamodule=data)
        asked = self.protocol.asked(self.dataset, self.asked)
        self._write(self._ranked(module, vocabularies, asked, k=k), asked, path=lists)

    def _module(self, cut: Cut, vocabularies: Vocabularies) -> TowersModule:
        items, table = item_tables(
            self.dataset, spec=self.spec, vocabularies=vocabularies, text_encoder=self.text_encoder
        )
        if not self.spec.names("item", "text"):  # ids alone are to cost what ids cost
            table = ItemTable(items=items, text_embeddings=np.zeros((len(items.item_id), 0), dtype=np.float32))
        sizes = TowerSizes.of(self.spec, vocabularies, text_width=table.text_embedding.shape[1])
        return TowersModule(
            model=self.build_model(sizes=sizes, item_table=table),
            loss=self.loss,
            negatives=self.negatives,
            item_counts=item_counts(self.dataset, cut),
            recommendable=self.protocol.recommendable(self.dataset, cut.splits),
            learning_rate=self.optimisation.learning_rate,
            weight_decay=self.optimisation.weight_decay,
            spec_hash=self.spec.hash,
            of_queries=query_rows(self.dataset, cut),
        )

    @torch.no_grad()
    def _ranked(self, module: TowersModule, vocabularies: Vocabularies, asked: PastRequests, *, k: int) -> RankedLists:
        held = held_out(self.dataset, asked, spec=self.spec, vocabularies=vocabularies)
        history_rows, *query = query_tensors(held.inputs, held.texts)
        model = module.model.eval()
        items = model.embed_catalogue()
        scores = model.query_tower(QueryTowerInputs(items[history_rows], *query)) @ items.T
        return top_items(
            scores.numpy(), k=k, allowed=module.recommendable.numpy(), excluded=asked.seen_rows(self.dataset)
        )

    def _write(self, lists: RankedLists, asked: PastRequests, *, path: Path) -> None:
        catalogue, query_ids = self.dataset.items.catalogue, self.dataset.events.query_ids
        rows = [
            (query_ids[query], catalogue.item_id(int(row)), rank)
            for query, own in zip(asked.queries, lists.rows, strict=True)
            for rank, row in enumerate(own[own >= FIRST], start=1)
        ]
        pd.DataFrame(rows, columns=["query_id", "item_id", "rank"]).to_csv(path, index=False)
