"""Step train_towers: fit the towers on the fold with early stopping, refit on all but the test events, write both.

Owns the order of these and what a towers directory holds: for each cut the tables of stage 1, both towers as ONNX, the
neighbour tables of the other retrievers, which items can be recommended, and what training looked like (curves/);
report.txt for both.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.spec import DAY_MS, FeatureSpec
from features.statistics import ItemStatistics
from features.text import TextTokenizer
from features.transforms import ItemInputs, item_texts
from features.vocab import Vocabularies
from lifecycle.cuts import CUTS, FOLD, Cut
from lifecycle.interrupts import interruptible
from lifecycle.tracking import RunFacts, RunLogger
from lifecycle.training_report import REPORT_DIR, Curves, write_curves, write_report
from lifecycle.training_tables import item_counts, item_tables, neighbour_tables, query_rows, word_tables
from serving.retrieval import write_tables
from towers.data import HeldOut, QueryTexts, TowerData, Windows, held_out, training_windows
from towers.errors import UnfitPieces
from towers.export import export_towers
from towers.loss_guard import LossGuard
from towers.losses.loss import Loss
from towers.model import ItemTable, TowerSizes, TwoTower
from towers.module import TowersModule
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import NegativeSource
from towers.objective import objective_of
from towers.text_encoder import SentenceEncoder, TextEncoder
from towers.trained_text import TEXT_ENCODER_DIR, QueryTokens, TextTraining, TrainedText

logger = logging.getLogger(__name__)

MONITOR = "validation/ndcg@10"
TEXT_EMBEDDINGS_FILE = "text_embeddings.npy"
SUMMARY_FILE = "training.json"
GUARDED_STEPS = 50  # after so many steps their losses are looked at, for which the device has to be waited for


@dataclass(frozen=True)
class Optimisation:
    """How the towers are trained.

    Attributes:
        epoch_steps: batches of an epoch at most, so that a long log is validated as often as a short one; None: all.
        patience: epochs without a better validation NDCG@10 before training stops.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    epoch_steps: int | None
    patience: int
    seed: int


class EpochSeed(Callback):
    """Draws every epoch from its own seed, so that a run that was killed goes on exactly as it would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed dropout and negatives; the order of batches is the data module's."""
        # Ranks have dropout and negatives of their own; so much apart that no rank meets another one's epoch.
        torch.manual_seed(self.seed * 100_003 + trainer.current_epoch + trainer.global_rank * 1_000_000_007)


@dataclass(frozen=True)
class TowersTraining:
    """Everything that does not change between the two cuts.

    Attributes:
        text: how the text encoder is trained with the towers; None: its embeddings are made before, and stay.
    """

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
    build_logger: Callable[..., RunLogger] | None
    text: TextTraining | None = None
    facts: RunFacts = field(default_factory=RunFacts)

    @cached_property
    def sentence_encoder(self) -> SentenceEncoder | None:
        """Of what queries say, if they say anything, as it was before training."""
        return SentenceEncoder.open(self.text_encoder.checkpoint) if self.spec.text.query_tokens else None

    @property
    def tokenizer_json(self) -> Path:
        """Of the text encoder."""
        return self.text_encoder.tokenizer_json

    @property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self.tokenizer_json)

    def check(self) -> None:
        """Refuse what does not fit before the hours that come before the first step.

        Raises:
            UnfitPieces: loss, negatives and the items of a cut do not fit, or an encoder cannot be trained as asked.
        """
        if self.text is not None:
            self.text.check(self.text_encoder.checkpoint)
            if not self.spec.names("item", "text") and not self.spec.text.query_tokens:
                raise UnfitPieces(
                    f"the text encoder is to be trained, and dataset {self.dataset.name} has no texts: set "
                    "text=precomputed, or name text columns in dataset.columns.items.text"
                )
        for cut in CUTS:
            objective_of(loss=self.loss, negatives=self.negatives, items=self._training_items(cut))

    def tried(self, directory: Path, *, watchers: Sequence[Callback] = ()) -> dict[str, float]:
        """Train the fold alone; returns its best validation metrics. `directory` keeps the curves.

        Args:
            directory: empty, or of the same training that was killed.
            watchers: see every epoch's metrics, and may end training by an exception.

        Raises:
            UnfitPieces: loss, negatives and items do not fit.
        """
        self.check()
        directory.mkdir(parents=True, exist_ok=True)
        vocabularies, _, table = self._items(FOLD)
        _, _, metrics = self._fit(FOLD, directory, table=table, vocabularies=vocabularies, watchers=watchers)
        for checkpoint in directory.glob("*.ckpt"):
            checkpoint.unlink()
        return metrics

    def run(self, out_dir: Path) -> None:
        """Train both cuts into `out_dir`/<cut>; a cut that is complete is kept.

        Raises:
            UnfitPieces: loss, negatives and items do not fit.
        """
        epochs: int | None = None
        for cut in CUTS:
            summary = out_dir / cut.name / SUMMARY_FILE
            if not summary.is_file():
                self.check()
                self.train(cut, out_dir / cut.name, max_epochs=epochs)
            epochs = int(json.loads(summary.read_text())["epochs"])
        write_report(out_dir, cuts=[cut.name for cut in CUTS], facts=self.facts.tags)

    def train(self, cut: Cut, directory: Path, *, max_epochs: int | None = None) -> None:
        """Train one cut, with early stopping where it has a validation split, and write all that stage 1 is."""
        directory.mkdir(parents=True, exist_ok=True)
        vocabularies, items, table = self._items(cut)
        module, epochs, metrics = self._fit(cut, directory, table=table, vocabularies=vocabularies, epochs=max_epochs)
        with torch.inference_mode():
            embeddings: NDArray[np.float32] = module.model.eval().embed_catalogue().cpu().numpy()
        days = self.dataset.days(cut.splits)
        last_day = np.array([(int(days.days.max()) + 1) * DAY_MS])
        write_tables(
            directory,
            spec=self.spec,
            vocabularies=vocabularies,
            catalogue=self.dataset.items.catalogue,
            items=items,
            item_embeddings=embeddings,
            recommendable=self.protocol.recommendable(self.dataset, cut.splits),
            statistics=ItemStatistics.at_requests(days, requested_at_ms=last_day, tick_ms=self.spec.tick_ms),
            neighbours=neighbour_tables(self.dataset, self.protocol, cut)
            | word_tables(self.dataset, spec=self.spec, tokenizer=self._tokenizer),
            tokenizer_json=self.tokenizer_json,
            text_embeddings=table.text_embedding.cpu().numpy() if self.spec.text.query_tokens else None,
        )
        export_towers(
            module.model,
            directory,
            history_length=self.spec.history_length,
            spec_hash=self.spec.hash,
            sentence_encoder=self._as_trained(module) if self.spec.text.query_tokens else None,
            query_tokens=self.spec.text.query_tokens,
        )
        if module.text is not None:
            module.text.save(directory / TEXT_ENCODER_DIR, encoder=self.text_encoder.checkpoint)
        np.save(directory / TEXT_EMBEDDINGS_FILE, table.text_embedding.cpu().numpy(), allow_pickle=False)
        write_json(directory / SUMMARY_FILE, {"epochs": epochs, "cut": cut.name, **metrics})
        for checkpoint in directory.glob("*.ckpt"):
            checkpoint.unlink()

    def _items(self, cut: Cut) -> tuple[Vocabularies, ItemInputs, ItemTable]:
        vocabularies = self.dataset.fit_vocabularies(cut.splits, columns=self.columns)
        items, table = item_tables(
            self.dataset,
            spec=self.spec,
            vocabularies=vocabularies,
            text_encoder=self.text_encoder,
            texts_are_known=self.text is None,
        )
        return vocabularies, items, table

    def _trained_text(self, windows: Windows, validation: HeldOut | None, directory: Path) -> TrainedText | None:
        if self.text is None:
            return None
        texts = item_texts(self.dataset.items, names=self.spec.names("item", "text"))
        trained = TrainedText(
            SentenceEncoder.open(self.text_encoder.checkpoint),
            item_texts=self._tokenizer.sentences(texts, max_tokens=self.text_encoder.max_tokens),
            settings=self.text,
            directory=directory,
        )
        for asked in (windows, validation):
            if asked is not None and asked.texts.shape[1]:
                trained.prepare(asked.texts)
        return trained

    def _as_trained(self, module: TowersModule) -> SentenceEncoder | None:
        return self.sentence_encoder if module.text is None else module.text.sentences

    def _fit(
        self,
        cut: Cut,
        directory: Path,
        *,
        table: ItemTable,
        vocabularies: Vocabularies,
        epochs: int | None = None,
        watchers: Sequence[Callback] = (),
    ) -> tuple[TowersModule, int, dict[str, float]]:
        """Train; returns the best module, how many epochs it took and its validation metrics."""
        settings = self.optimisation
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        sizes = TowerSizes.of(self.spec, vocabularies, text_width=table.text_embedding.shape[1])
        known = self._training_items(cut)
        model = self.build_model(sizes=sizes, item_table=table)
        query_texts: QueryTexts | None = self.sentence_encoder
        if self.text is not None and self.sentence_encoder is not None:
            query_texts = QueryTokens(self.sentence_encoder)
        validation = None
        if cut.validation is not None:
            validation = held_out(
                self.dataset,
                self._validation_requests(cut, cut.validation),
                spec=self.spec,
                vocabularies=vocabularies,
                query_texts=query_texts,
            )
        windows = training_windows(
            self.dataset, cut.splits, spec=self.spec, vocabularies=vocabularies, query_texts=query_texts
        )
        module = TowersModule(
            model=model,
            loss=self.loss,
            negatives=self.negatives,
            item_counts=known.counts,
            recommendable=known.recommendable,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            spec_hash=self.spec.hash,
            of_queries=known.of_queries,
            text=self._trained_text(windows, validation, directory),
        )
        logger.info("towers, cut %s: %s", cut.name, module.objective.summary)
        data = TowerData(
            windows=windows,
            validation=validation,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epoch_steps=settings.epoch_steps,
            make_batch=module.make_batch,
        )
        keep_best = ModelCheckpoint(
            dirpath=directory,
            filename="best",
            monitor=None if validation is None else MONITOR,
            mode="max",
            save_last=True,
            enable_version_counter=False,
        )
        # Beside the step's directory, which is emptied when a setting changes.
        guard = LossGuard(every_n_steps=GUARDED_STEPS, save_to=directory.parent.parent / f"broken_batch_{cut.name}")
        curves = directory / REPORT_DIR
        callbacks: list[Callback] = [EpochSeed(settings.seed), guard, Curves(curves), keep_best, *watchers]
        if validation is not None:
            callbacks.append(EarlyStopping(monitor=MONITOR, mode="max", patience=settings.patience))
        last = _readable(directory / "last.ckpt")
        run = self._run_logger(cut, curves, goes_on=last is not None)
        trainer = self.build_trainer(
            callbacks=callbacks,
            logger=run or False,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,  # TowerData gives each rank its part
            default_root_dir=str(directory),
            **({} if epochs is None else {"max_epochs": epochs}),
        )
        logger.info("towers, cut %s: training%s", cut.name, " goes on from a checkpoint" if last else "")
        with interruptible(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if last else None)
        if validation is None:
            module.refresh_texts()
            # Nothing ended it early; where ranks are processes of their own, this one counted no epoch.
            num_epochs = int(trainer.max_epochs or 0)
            _finish(run, curves, cut, best_epoch=num_epochs, num_requests=0)
            return module, num_epochs, {}
        best = torch.load(keep_best.best_model_path, weights_only=True)
        module.load_state_dict(best["state_dict"])
        with interruptible(trainer):
            found = trainer.validate(module, datamodule=data, verbose=False)[0]
        metrics = {name: float(value) for name, value in found.items()}
        logger.info("towers, cut %s: best epoch %d, %s", cut.name, best["epoch"] + 1, metrics)
        _finish(run, curves, cut, best_epoch=int(best["epoch"]) + 1, num_requests=len(validation.relevant))
        return module, int(best["epoch"]) + 1, metrics

    def _run_logger(self, cut: Cut, report: Path, *, goes_on: bool) -> RunLogger | None:
        if self.build_logger is None:
            return None
        run = self.build_logger(directory=report, name=f"towers {cut.name}", goes_on=goes_on)
        run.begin(RunFacts(self.facts.settings, {**self.facts.tags, "cut": cut.name, "spec_hash": self.spec.hash}))
        return run

    def _training_items(self, cut: Cut) -> TrainingItems:
        return TrainingItems(
            counts=item_counts(self.dataset, cut),
            recommendable=self.protocol.recommendable(self.dataset, cut.splits),
            of_queries=query_rows(self.dataset, cut),
        )

    def _validation_requests(self, cut: Cut, split: str) -> PastRequests:
        recommendable = self.protocol.recommendable(self.dataset, cut.splits)
        return self.protocol.looked_for(self.protocol.asked(self.dataset, split), recommendable=recommendable)


def _finish(run: RunLogger | None, report: Path, cut: Cut, *, best_epoch: int, num_requests: int) -> None:
    write_curves(report, name=cut.name, best_epoch=best_epoch, num_requests=num_requests)
    if run is not None:
        run.finish(report)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a file that says that a part is complete: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2))
    partial.replace(path)


def _readable(checkpoint: Path) -> Path | None:
    """The checkpoint, unless there is none or a kill left half of it: then training begins anew."""
    if not checkpoint.is_file():
        return None
    try:
        torch.load(checkpoint, weights_only=True, map_location="cpu")
    except Exception as error:  # a torn file raises whatever its unpickler met first
        logger.warning("%s cannot be read (%s); training begins anew", checkpoint, error)
        checkpoint.unlink()
        return None
    return checkpoint
