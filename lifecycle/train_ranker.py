"""Step train_ranker: lists from out-of-fold candidates, gradient boosting, the teacher, and its distilled student.

Owns the order of these and what a ranker directory holds: gradient_boosting/, teacher/, student/ and training.json.
What can be released, trees and student, has a calibration.json beside it.
Each part that is complete is kept when a killed run goes on.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.spec import FeatureSpec
from features.text import TextTokenizer
from lifecycle.candidates import StageOne
from lifecycle.interrupts import interruptible
from lifecycle.list_weights import list_weights
from lifecycle.train_towers import SUMMARY_FILE, write_json
from ranking.calibration_fit import NothingToCalibrate, fit_calibration
from ranking.data import RankerLists
from ranking.decomposed import DecomposedRanker
from ranking.embedded import read_by
from ranking.export import export_ranker, load_ranker, save_ranker
from ranking.gradient_boosting import BoostedTrees, GradientBoosting
from ranking.item_states import check_budget, write_item_states
from ranking.model import ClsEncoder, Ranker, segments_of
from ranking.module import Distillation, RankerData, RankerModule
from ranking.scoring import scores_by_part, texts_of
from ranking.student import HeadSizes, Student
from ranking.teacher import ScoreCache, pretrained_encoder, teacher_scorer
from serving.release import CALIBRATION_FILE, ITEM_STATES_FILE, RANKER_FILE
from serving.retrieval import TOKENIZER_FILE
from towers.retrievers.fusion_fit import NothingToFit
from towers.text_encoder import checkpoint_directory

logger = logging.getLogger(__name__)

AnyRanker = Ranker | DecomposedRanker

GRADIENT_BOOSTING, TEACHER, STUDENT = "gradient_boosting", "teacher", "student"

MOST_WEIGHED = 500  # lists of validation; a cross-encoder takes seconds for ten
MOST_CALIBRATED = 2000  # likewise, though evaluation has the student score as many


@dataclass(frozen=True)
class Fit:
    """How one ranker is trained.

    Attributes:
        num_negatives: sampled beside each relevant candidate.
        batch_size: lists a step.
        distillation: loss against the teacher's scores, where it has scored, weighed beside the label's.
        max_lists: a random part of the lists, where there are more than the budget allows; null takes all.
    """

    epochs: int
    num_negatives: int
    batch_size: int
    learning_rate: float
    encoder_learning_rate: float
    weight_decay: float
    dropout: float
    distillation: Distillation | None = None
    distillation_weight: float = 0.0
    max_lists: int | None = None


@dataclass(frozen=True)
class TeacherRecipe:
    """The teacher: its checkpoint, what of it is trained, and how much it scores.

    Attributes:
        checkpoint: a directory in Hugging Face format, or `package:NAME`.
        scored_lists: lists that it scores for the student.
        scored_negatives: candidates of each that it scores beside the relevant one.
        num_workers: threads that score on a CPU; null: as many as there are cores.
        reads_embeddings: the towers' embeddings of query and candidate too, beside text and dense features.
    """

    checkpoint: str
    trainable_layers: int
    fit: Fit
    scored_lists: int
    scored_negatives: int
    cache: str
    num_workers: int | None = None
    reads_embeddings: bool = False


@dataclass(frozen=True)
class StudentRecipe:
    """The student: its form, and how it is trained."""

    form: Student
    fit: Fit


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
    student: StudentRecipe
    build_trainer: Callable[..., pl.Trainer]
    seed: int

    @property
    def spec(self) -> FeatureSpec:
        """Spec of the features that the lists are made of."""
        return self.stage_one.stage1.spec

    def run(self, out_dir: Path) -> None:
        """Train all rankers into `out_dir`."""
        train, validation = (self.lists(split) for split in ("ranking", "validation"))
        trees_dir = out_dir / GRADIENT_BOOSTING
        if not trees_dir.is_dir():
            names = self.spec.names("ranker", "number")
            self.gradient_boosting.fit(train, validation, feature_names=names).save(trees_dir)
        # What learns sees the lists of the split ranking, what decides those of validation: the trees' rounds, how much
        # a student's text counts, and which probability a score stands for.
        every = self.with_new_items("ranking", train)
        learnable = every.learnable()
        logger.info("ranker: %d lists hold a chosen item and are learnt from", len(learnable))
        dense = self._fitted(
            out_dir / "dense",
            lambda: self._fit(self._ranker(None, dropout=self.dense_fit.dropout), learnable, self.dense_fit),
        )
        teacher = self._fitted(out_dir / TEACHER, lambda: self._fit_teacher(dense, learnable))
        student = self._fitted(
            out_dir / STUDENT, lambda: self._fit_student(dense, teacher, learnable, validation, out_dir / STUDENT)
        )
        export_ranker(student, out_dir / STUDENT / RANKER_FILE, spec_hash=self.spec.hash)
        trees = BoostedTrees.load(trees_dir)
        trees.export_onnx(trees_dir / RANKER_FILE, spec_hash=self.spec.hash)
        some = self._some(validation, MOST_CALIBRATED)
        calibrate(trees.score(some.dense), some, path=trees_dir / CALIBRATION_FILE)
        calibrate(np.add(*scores_by_part(student, some)), some, path=out_dir / STUDENT / CALIBRATION_FILE)
        facts = {
            "num_ranked": self.num_ranked,
            "lists": len(train),
            "lists_of_new_items": len(every) - len(train),
            "learnable_lists": len(learnable),
            "importance": trees.importance(),
        }
        write_json(out_dir / SUMMARY_FILE, facts)

    def lists(self, split: str) -> RankerLists:
        """Candidates of stage 1 for the requests of a split, with what was then chosen."""
        return self._lists_of(self._asked(split))

    def with_new_items(self, split: str, served: RankerLists) -> RankerLists:
        """A second list for each request, of items that are new to it, beside the served ones.

        Where a query may be given again what it had, new items are few in what is served, and seldom chosen: from such
        lists alone a ranker does not learn in which order they belong. Trees learn it no better for them (docs/log.md).
        """
        if not self.protocol.repeats:
            return served
        asked = self._asked(split)
        new = asked.only(~asked.had)
        if not len(new):
            return served
        return RankerLists.joined([served, self._lists_of(new, excluded=new.seen_rows(self.dataset))])

    def _asked(self, split: str) -> PastRequests:
        asked = self.protocol.looked_for(
            self.protocol.asked(self.dataset, split, days=self.request_days),
            recommendable=self.protocol.recommendable(self.dataset, self.stage_one.cut.splits),
        )
        if not len(asked):
            raise ValueError(
                f"the ranker learns from requests of the splits ranking and validation, but {split} has none: give it "
                "events by the settings of dataset.split"
            )
        return asked

    def _lists_of(self, asked: PastRequests, *, excluded: NDArray[np.int64] | None = None) -> RankerLists:
        days = self.protocol.item_days(self.dataset, self.stage_one.cut.splits)
        requests = self.stage_one.ask(self.dataset, asked, days=days, num_candidates=self.num_ranked, excluded=excluded)
        return self.stage_one.lists(requests, days=days, num_ranked=self.num_ranked)

    def _fitted(self, directory: Path, fit: Callable[[], AnyRanker]) -> AnyRanker:
        if not (directory / "ranker.json").is_file():
            save_ranker(fit(), directory, spec_hash=self.spec.hash)
        return load_ranker(directory)

    @property
    def _head(self) -> HeadSizes:
        layout = self.spec.text
        return HeadSizes(
            segments=segments_of(length=layout.length, history_tokens=layout.context_tokens),
            num_dense=len(self.spec.names("ranker", "number")),
            hidden=self.hidden,
        )

    def _ranker(self, encoder: ClsEncoder | None, *, dropout: float, embedding_width: int = 0) -> Ranker:
        head = self._head
        return Ranker(
            encoder=encoder,
            num_dense=head.num_dense,
            segments=head.segments,
            hidden=head.hidden,
            dropout=dropout,
            embedding_width=embedding_width,
        )

    def read_by(self, teacher: Ranker, lists: RankerLists) -> RankerLists:
        """Lists as this teacher reads them: with embeddings of the towers that found them, if it reads any."""
        return read_by(teacher, lists, item_embeddings=self.stage_one.stage1.item_embeddings)

    def _fit_teacher(self, dense: AnyRanker, lists: RankerLists) -> AnyRanker:
        recipe = self.teacher
        encoder = pretrained_encoder(
            checkpoint_directory(recipe.checkpoint),
            pad_token=self._tokenizer.pad,
            dropout=recipe.fit.dropout,
            trainable_layers=recipe.trainable_layers,
        )
        width = self.stage_one.stage1.item_embeddings.shape[1] if recipe.reads_embeddings else 0
        teacher = self._ranker(encoder, dropout=recipe.fit.dropout, embedding_width=width)
        teacher.take_dense_part(dense)
        some = self._some(lists, recipe.fit.max_lists or len(lists))
        return self._fit(teacher, self.read_by(teacher, some), recipe.fit)

    def taught_student(self, dense: AnyRanker, teacher: AnyRanker, lists: RankerLists) -> AnyRanker:
        """A student that has learnt from lists and teacher, its two parts not weighed yet.

        Raises:
            ValueError: the teacher reads no text, or what a release would hold of an item is beyond its budget.
        """
        if not isinstance(teacher, Ranker) or teacher.encoder is None:
            raise ValueError("the teacher has no text encoder, so there is nothing to distil: train it again")
        recipe, items = self.student, self.stage_one.stage1.items
        student = recipe.form.build(teacher.encoder.cpu(), head=self._head, dropout=recipe.fit.dropout)
        student.take_dense_part(dense)
        if isinstance(student, DecomposedRanker):
            num_tokens = items.text_tokens.shape[1] + 1
            check_budget(student.encoder, num_items=len(items.item_id), num_tokens=num_tokens)
        taught = None if recipe.fit.distillation is None else self._teacher_scores(teacher, lists)
        return self._fit(student, lists, recipe.fit, teacher_scores=taught)

    def _fit_student(
        self, dense: AnyRanker, teacher: AnyRanker, lists: RankerLists, validation: RankerLists, directory: Path
    ) -> AnyRanker:
        student, items = self.taught_student(dense, teacher, lists), self.stage_one.stage1.items
        self._weigh(student, validation)
        if isinstance(student, DecomposedRanker):
            directory.mkdir(parents=True, exist_ok=True)
            write_item_states(
                student.encoder,
                directory / ITEM_STATES_FILE,
                text_tokens=items.text_tokens,
                sep=self.stage_one.stage1.special_tokens[1],
            )
        return student

    def _weigh(self, student: AnyRanker, validation: RankerLists) -> None:
        """Give the text the weight that lists which nothing was learnt from give it: nothing, where it adds nothing."""
        lists = self._some(validation, MOST_WEIGHED).learnable()
        try:
            weights = list_weights(scores_by_part(student, lists), lists)
        except NothingToFit as error:
            logger.warning("ranker: the student's parts keep their weights (%s)", error)
            return
        student.weigh(dense=float(weights[0]), text=float(weights[1]))
        logger.info("student: weights %.3g of dense features, %.3g of text, by %d lists", *weights, len(lists))

    def _some(self, lists: RankerLists, most: int) -> RankerLists:
        return lists.take(np.sort(np.random.default_rng(self.seed).permutation(len(lists))[:most]))

    def _teacher_scores(self, teacher: Ranker, lists: RankerLists) -> NDArray[np.float32]:
        """[N, C] scores, NaN where the teacher was not asked."""
        generator = np.random.default_rng(self.seed)
        numbers, places = lists.samples(num_negatives=self.teacher.scored_negatives, generator=generator)
        chosen = np.sort(generator.permutation(len(numbers))[: self.teacher.scored_lists])
        numbers, places = numbers[chosen], places[chosen]
        read, own = self.read_by(teacher, lists.take(numbers)), np.arange(len(numbers))[:, None]
        # Where the trainer would train it: on a GPU machine the teacher scores there too.
        device = self._trainer().strategy.root_device
        open_scorer = partial(teacher_scorer, num_workers=self.teacher.num_workers)
        scored = ScoreCache(Path(self.teacher.cache), open_scorer=open_scorer).score(
            teacher.to(device), read.tokens[own, places], read.dense[own, places]
        )
        scores = np.full(lists.candidate_rows.shape, np.nan, dtype=np.float32)
        scores[numbers[:, None], places] = scored
        return scores

    def _fit(
        self, model: AnyRanker, lists: RankerLists, fit: Fit, *, teacher_scores: NDArray[np.float32] | None = None
    ) -> AnyRanker:
        pl.seed_everything(self.seed, workers=True, verbose=False)
        if fit.max_lists is not None and fit.max_lists < len(lists):
            lists = self._some(lists, fit.max_lists)
        if model.encoder is None:  # a ranker with text takes the scale with the dense part
            model.fit_scale(lists.dense)
        steps = fit.epochs * -(-len(lists) // fit.batch_size)
        module = RankerModule(
            model=model,
            learning_rate=fit.learning_rate,
            encoder_learning_rate=fit.encoder_learning_rate,
            weight_decay=fit.weight_decay,
            distillation=fit.distillation,
            distillation_weight=fit.distillation_weight,
            num_steps=steps,
            spec_hash=self.spec.hash,
        )
        data = RankerData(
            lists=lists,
            texts=texts_of(model, lists),
            teacher_scores=teacher_scores,
            num_negatives=fit.num_negatives,
            batch_size=fit.batch_size,
            seed=self.seed,
        )
        trainer = self._trainer(max_epochs=fit.epochs, reload_dataloaders_every_n_epochs=1)
        with interruptible(trainer):
            trainer.fit(module, datamodule=data)
        return model.eval()

    def _trainer(self, **settings: Any) -> pl.Trainer:
        """On one device, whatever the towers have: lists are few."""
        one = {"devices": 1, "strategy": "auto", "logger": False, "enable_checkpointing": False}
        return self.build_trainer(**one, **settings)

    @property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(checkpoint_directory(self.teacher.checkpoint) / TOKENIZER_FILE)


def calibrate(scores: NDArray[np.float32], lists: RankerLists, *, path: Path) -> None:
    """Write which probability a score stands for; nothing, where the lists cannot say.

    Lists in which nothing was chosen count: a probability is of any request, and stage 1 does not always find it.
    """
    present = lists.present
    try:
        calibration = fit_calibration(scores[present].astype(np.float64), chosen=lists.relevance[present] > 0)
    except NothingToCalibrate as error:
        path.unlink(missing_ok=True)
        logger.warning("ranker: no probabilities for %s (%s)", path.parent.name, error)
        return
    calibration.write(path)
    logger.info("%s: probabilities by %d lists of validation", path.parent.name, len(lists))


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
