"""Step train_ranker: lists from out-of-fold candidates, gradient boosting, the teacher, and its distilled student.

Owns the order of these and what a ranker directory holds: gradient_boosting/, teacher/, student/ and training.json.
Each part that is complete is kept when a killed run goes on.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.spec import FeatureSpec
from features.text import TextTokenizer
from lifecycle.candidates import StageOne
from lifecycle.interrupts import interruptible
from lifecycle.train_towers import SUMMARY_FILE, write_json
from ranking.data import RankerLists
from ranking.export import export_ranker, load_ranker, save_ranker
from ranking.gradient_boosting import BoostedTrees, GradientBoosting
from ranking.model import ClsEncoder, Ranker, segments_of
from ranking.module import RankerData, RankerModule
from ranking.student import StudentSizes, student_encoder
from ranking.teacher import ScoreCache, pretrained_encoder
from serving.release import RANKER_FILE
from serving.retrieval import TOKENIZER_FILE
from towers.text_encoder import checkpoint_directory

logger = logging.getLogger(__name__)

GRADIENT_BOOSTING, TEACHER, STUDENT = "gradient_boosting", "teacher", "student"


@dataclass(frozen=True)
class Fit:
    """How one ranker is trained.

    Attributes:
        num_negatives: sampled beside each relevant candidate.
        batch_size: lists a step.
        max_lists: a random part of the lists, where there are more than the budget allows; null takes all.
    """

    epochs: int
    num_negatives: int
    batch_size: int
    learning_rate: float
    encoder_learning_rate: float
    weight_decay: float
    dropout: float
    distillation_weight: float = 0.0
    temperature: float = 1.0
    max_lists: int | None = None


@dataclass(frozen=True)
class TeacherRecipe:
    """The teacher: its checkpoint, what of it is trained, and how much it scores.

    Attributes:
        checkpoint: a directory in Hugging Face format, or `package:NAME`.
        scored_lists: lists that it scores for the student.
        scored_negatives: candidates of each that it scores beside the relevant one.
    """

    checkpoint: str
    trainable_layers: int
    fit: Fit
    scored_lists: int
    scored_negatives: int
    cache: str


@dataclass(frozen=True)
class RankerTraining:
    """Everything that the step needs.

    Attributes:
        request_days: where splits are divided by time, a query asks so often, and what it chooses until it asks again
            is relevant; null: once a split.
    """

    dataset: Dataset
    protocol: RequestProtocol
    stage_one: StageOne
    request_days: int | None
    num_ranked: int
    hidden: int
    gradient_boosting: GradientBoosting
    dense_fit: Fit
    teacher: TeacherRecipe
    student_sizes: StudentSizes
    student_fit: Fit
    build_trainer: Callable[..., pl.Trainer]
    seed: int

    @property
    def spec(self) -> FeatureSpec:
        """Spec of the features that the lists are made of."""
        return self.stage_one.stage1.spec

    def run(self, out_dir: Path) -> None:
        """Train all rankers into `out_dir`."""
        train, validation = (self._lists(split) for split in ("ranking", "validation"))
        trees_dir = out_dir / GRADIENT_BOOSTING
        if not trees_dir.is_dir():
            names = self.spec.names("ranker", "number")
            self.gradient_boosting.fit(train, validation, feature_names=names).save(trees_dir)
        # What decided on the trees' rounds may be learnt from now on: later events than these are the test's.
        learnable = _concatenate(train, validation).learnable()
        logger.info("ranker: %d lists hold a chosen item and are learnt from", len(learnable))
        dense = self._fitted(
            out_dir / "dense",
            lambda: self._fit(self._ranker(None, dropout=self.dense_fit.dropout), learnable, self.dense_fit),
        )
        teacher = self._fitted(out_dir / TEACHER, lambda: self._fit_teacher(dense, learnable))
        student = self._fitted(out_dir / STUDENT, lambda: self._fit_student(dense, teacher, learnable))
        export_ranker(student, out_dir / STUDENT / RANKER_FILE, spec_hash=self.spec.hash)
        trees = BoostedTrees.load(trees_dir)
        trees.export_onnx(trees_dir / RANKER_FILE, spec_hash=self.spec.hash)
        facts = {
            "num_ranked": self.num_ranked,
            "lists": len(train) + len(validation),
            "learnable_lists": len(learnable),
            "importance": trees.importance(),
        }
        write_json(out_dir / SUMMARY_FILE, facts)

    def _lists(self, split: str) -> RankerLists:
        known = self.stage_one.cut.splits
        asked = self.protocol.looked_for(
            self.protocol.asked(self.dataset, split, days=self.request_days),
            recommendable=self.protocol.recommendable(self.dataset, known),
        )
        if not len(asked):
            raise ValueError(
                f"the ranker learns from requests of the splits ranking and validation, but {split} has none: give it "
                "events by the settings of dataset.split"
            )
        days = self.protocol.item_days(self.dataset, known)
        requests = self.stage_one.ask(self.dataset, asked, days=days, num_candidates=self.num_ranked)
        return self.stage_one.lists(requests, days=days, num_ranked=self.num_ranked)

    def _fitted(self, directory: Path, fit: Callable[[], Ranker]) -> Ranker:
        if not (directory / "ranker.json").is_file():
            save_ranker(fit(), directory, spec_hash=self.spec.hash)
        return load_ranker(directory)

    def _ranker(self, encoder: ClsEncoder | None, *, dropout: float, dense: Ranker | None = None) -> Ranker:
        layout = self.spec.text
        ranker = Ranker(
            encoder=encoder,
            num_dense=len(self.spec.names("ranker", "number")),
            segments=segments_of(length=layout.length, history_tokens=layout.context_tokens),
            hidden=self.hidden,
            dropout=dropout,
        )
        if dense is not None:
            ranker.take_dense_part(dense)
        return ranker

    def _fit_teacher(self, dense: Ranker, lists: RankerLists) -> Ranker:
        recipe = self.teacher
        encoder = pretrained_encoder(
            checkpoint_directory(recipe.checkpoint),
            pad_token=self._pad_token,
            dropout=recipe.fit.dropout,
            trainable_layers=recipe.trainable_layers,
        )
        return self._fit(self._ranker(encoder, dense=dense, dropout=recipe.fit.dropout), lists, recipe.fit)

    def _fit_student(self, dense: Ranker, teacher: Ranker, lists: RankerLists) -> Ranker:
        if teacher.encoder is None:
            raise ValueError("the teacher has no text encoder, so there is nothing to distil: train it again")
        teacher_scores = self._teacher_scores(teacher, lists)
        encoder = student_encoder(
            self.student_sizes,
            teacher=teacher.encoder.cpu(),
            num_tokens=self.spec.text.length,
            dropout=self.student_fit.dropout,
        )
        student = self._ranker(encoder, dense=dense, dropout=self.student_fit.dropout)
        return self._fit(student, lists, self.student_fit, teacher_scores=teacher_scores)

    def _teacher_scores(self, teacher: Ranker, lists: RankerLists) -> NDArray[np.float32]:
        """[N, C] scores, NaN where the teacher was not asked."""
        generator = np.random.default_rng(self.seed)
        numbers, places = lists.samples(num_negatives=self.teacher.scored_negatives, generator=generator)
        chosen = np.sort(generator.permutation(len(numbers))[: self.teacher.scored_lists])
        numbers, places = numbers[chosen, None], places[chosen]
        # Where the trainer would train it: on a GPU machine the teacher scores there too.
        device = self.build_trainer(logger=False, enable_checkpointing=False).strategy.root_device
        pairs = ScoreCache(Path(self.teacher.cache)).score(
            teacher.to(device),
            lists.tokens[numbers, places].reshape(places.size, -1),
            lists.dense[numbers, places].reshape(places.size, -1),
        )
        scores = np.full(lists.candidate_rows.shape, np.nan, dtype=np.float32)
        scores[numbers, places] = pairs.reshape(places.shape)
        return scores

    def _fit(
        self, model: Ranker, lists: RankerLists, fit: Fit, *, teacher_scores: NDArray[np.float32] | None = None
    ) -> Ranker:
        pl.seed_everything(self.seed, workers=True, verbose=False)
        if fit.max_lists is not None and fit.max_lists < len(lists):
            lists = lists.take(np.sort(np.random.default_rng(self.seed).permutation(len(lists))[: fit.max_lists]))
        if model.encoder is None:  # a ranker with text takes the scale with the dense part
            model.fit_scale(lists.dense)
        steps = fit.epochs * -(-len(lists) // fit.batch_size)
        module = RankerModule(
            model=model,
            learning_rate=fit.learning_rate,
            encoder_learning_rate=fit.encoder_learning_rate,
            weight_decay=fit.weight_decay,
            distillation_weight=fit.distillation_weight,
            temperature=fit.temperature,
            num_steps=steps,
            spec_hash=self.spec.hash,
        )
        data = RankerData(
            lists=lists,
            teacher_scores=teacher_scores,
            num_negatives=fit.num_negatives,
            batch_size=fit.batch_size,
            seed=self.seed,
        )
        trainer = self.build_trainer(
            max_epochs=fit.epochs, logger=False, enable_checkpointing=False, reload_dataloaders_every_n_epochs=1
        )
        with interruptible(trainer):
            trainer.fit(module, datamodule=data)
        return model.eval()

    @property
    def _pad_token(self) -> int:
        return TextTokenizer(checkpoint_directory(self.teacher.checkpoint) / TOKENIZER_FILE).pad


def _concatenate(first: RankerLists, second: RankerLists) -> RankerLists:
    return RankerLists(
        candidate_rows=np.concatenate([first.candidate_rows, second.candidate_rows]),
        tokens=np.concatenate([first.tokens, second.tokens]),
        dense=np.concatenate([first.dense, second.dense]),
        relevance=np.concatenate([first.relevance, second.relevance]),
        num_relevant=np.concatenate([first.num_relevant, second.num_relevant]),
    )


def check_num_ranked(ranker_dir: Path, num_ranked: int) -> None:
    """Refuse to rank lists of another length than the rankers learnt on: ranks and deviations would mean other things.

    Raises:
        ValueError: the lengths differ.
    """
    learnt = int(json.loads((ranker_dir / SUMMARY_FILE).read_text())["num_ranked"])
    if learnt != num_ranked:
        raise ValueError(
            f"the rankers in {ranker_dir} learnt on lists of {learnt} but serving.pipeline.num_ranked is {num_ranked}; "
            f"set ranker.num_ranked={num_ranked} and train them again, or serve {learnt}"
        )
