"""The towers' training step on made-up histories: what it takes, whatever the number of items and the length.

Owns the making up. Items have an id and nothing else; histories are full, and their items follow Zipf's law.
"""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from features.transforms import ItemInputs, QueryInputs
from features.vocab import FIRST, NumberScale
from lifecycle.lightning_turns import TakesTurns
from lifecycle.turns import Turns
from towers.data import TowerData, Windows
from towers.losses.loss import Loss
from towers.model import ItemTable, TowerSizes, build_two_tower
from towers.module import TowersModule
from towers.negatives.sampler import NegativeSource

NUM_WINDOWS = 512
ZIPF_EXPONENT = 1.0


@dataclass(frozen=True)
class MadeUpTraining:
    """A training that goes on until nobody gives it turns."""

    num_items: int
    history_length: int
    batch_size: int
    width: int
    loss: Loss
    negatives: NegativeSource
    seed: int

    def run(self, turns: Turns) -> None:
        """Train in turns."""
        pl.seed_everything(self.seed, workers=True, verbose=False)
        windows = self._windows(np.random.default_rng(self.seed))
        counts = np.bincount(windows.targets.ravel(), minlength=self.num_items + FIRST)
        every_item = np.arange(self.num_items + FIRST) >= FIRST
        sizes = TowerSizes(
            num_ids=self.num_items + FIRST,
            item_category_sizes=(),
            num_item_numbers=0,
            text_width=0,
            query_category_sizes=(),
            num_query_numbers=0,
            query_text_width=0,
            history_length=self.history_length,
            num_event_kinds=FIRST + 1,
            value_scale=NumberScale(mean=0.0, deviation=1.0),
        )
        module = TowersModule(
            model=build_two_tower(sizes=sizes, item_table=self._items(), width=self.width),
            loss=self.loss,
            negatives=self.negatives,
            item_counts=counts,
            recommendable=every_item,
            learning_rate=0.001,
            weight_decay=0.01,
            spec_hash="",
        )
        data = TowerData(
            windows=windows, validation=None, batch_size=self.batch_size, seed=self.seed, make_batch=module.make_batch
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1_000,
            gradient_clip_val=1.0,
            callbacks=[TakesTurns(turns, num_targets=lambda batch: len(batch.positions))],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
        )
        trainer.fit(module, datamodule=data)

    def _windows(self, draw: np.random.Generator) -> Windows:
        chances = np.arange(1, self.num_items + 1) ** -ZIPF_EXPONENT
        shape = (NUM_WINDOWS, self.history_length + 1)
        rows = FIRST + draw.choice(self.num_items, size=shape, p=chances / chances.sum())
        none = np.zeros((NUM_WINDOWS, 0), dtype=np.float32)
        days = np.ones((NUM_WINDOWS, self.history_length), dtype=np.float32)
        inputs = QueryInputs(
            history_rows=rows[:, :-1],
            history_events=np.full((NUM_WINDOWS, self.history_length), FIRST),
            history_values=days,
            history_age_days=days,
            history_gap_days=days,
            text_tokens=none.astype(np.int64),
            categories=none.astype(np.int64),
            numbers=none,
            context=none,
            requested_at_ms=np.zeros(NUM_WINDOWS, dtype=np.int64),
            seen_rows=rows[:, :-1],
            seen_age_days=days,
        )
        return Windows(
            inputs=inputs,
            texts=none,
            queries=np.arange(NUM_WINDOWS),
            targets=rows[:, 1:],
        )

    def _items(self) -> ItemTable:
        ids: NDArray[np.int64] = np.arange(self.num_items + FIRST)
        none = np.zeros((len(ids), 0), dtype=np.float32)
        items = ItemInputs(
            item_id=ids,
            categories=none.astype(np.int64).reshape(len(ids), 0, 1),
            numbers=none,
            title_tokens=none.astype(np.int32),
            text_tokens=none.astype(np.int32),
        )
        return ItemTable(items=items, text_embeddings=none)
