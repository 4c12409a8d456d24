"""Losses of distillation side by side: what a student's order is worth, and how much of its teacher's it takes over.

Owns the comparison: students that differ in their loss alone, by lists of validation, which none has learnt from; the
test requests are asked of the one that is named. How a student is trained is train_ranker.py's.
"""

# Shapes: N lists of C candidates, M of which the teacher scored whole.

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from scipy.stats import kendalltau

from evaluation.metrics import ndcg
from evaluation.report import compare_systems, intervals
from lifecycle.candidates import StageOne
from lifecycle.list_weights import list_weights
from lifecycle.train_ranker import TEACHER, RankerTraining, StudentRecipe
from ranking.data import RankerLists
from ranking.export import load_ranker, save_ranker
from ranking.model import Ranker
from ranking.scoring import scores_by_part
from ranking.teacher import ScoreCache, teacher_scorer

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
# Scores [2, N, C]: of the dense part, of the text's.
Parts = NDArray[np.float32]

K = 10
NUM_HALVINGS = 5
PARTS_FILE = "validation.npy"
WEIGHED, TEST = f"ndcg@{K}, parts weighed", f"test ndcg@{K}"


@dataclass(frozen=True)
class DistillationBench:
    """Everything that the bench needs.

    Attributes:
        training: of the fold; its seed and its student are not used.
        recipes: of the students, by name of the loss; the others are compared to the first.
        ranker_dir: of a run, whose dense part and teacher are taken over.
        seeds: each trains a student with each loss: its draws, and what the teacher scores for it.
        num_agreed: lists of validation that the teacher scores whole.
    """

    training: RankerTraining
    recipes: Mapping[str, StudentRecipe]
    ranker_dir: Path
    seeds: tuple[int, ...]
    num_agreed: int

    def rows(self, out_dir: Path) -> list[dict[str, Any]]:
        """One row a loss and measure, on lists of validation; values are means over the seeds of each list."""
        learnable = self.training.with_new_items("ranking", self.training.lists("ranking")).learnable()
        validation = self.training.lists("validation")
        drawn = np.random.default_rng(self.training.seed).permutation(len(validation))
        agreed = np.sort(drawn[: self.num_agreed])
        of_teacher = self._teacher_scores(validation.take(agreed))
        by_name: dict[str, list[dict[str, FloatArray]]] = {name: [] for name in self.recipes}
        for seed in self.seeds:
            for name, measured in by_name.items():
                parts = self._parts(name, seed, learnable, validation, out_dir)
                measured.append(
                    order_measures(parts, validation, generator=np.random.default_rng(self.training.seed))
                    | agreement_measures(parts[:, agreed], of_teacher, present=validation.present[agreed])
                )
                means = ", ".join(f"{measure} {own.mean():.4f}" for measure, own in measured[-1].items())
                logger.info("%s, seed %d: %s", name, seed, means)
        first: dict[str, FloatArray] = {}
        rows = [row for name, measured in by_name.items() for row in self._rows(name, measured, first)]
        dense = scores_by_part(load_ranker(self.ranker_dir / "dense"), validation)[0]
        return [*rows, *self._rows("dense part alone", [{WEIGHED: ndcg_of(dense, validation)}], first)]

    def test_rows(self, name: str, refit: StageOne, out_dir: Path) -> list[dict[str, Any]]:
        """The students of one loss, weighed as they are released, and the order of retrieval, on the test requests.

        Args:
            name: of a recipe whose students `rows` has trained.
            refit: stage 1 that answers test requests.
            out_dir: as `rows` had it.
        """
        validation = self.training.lists("validation")
        # All that a split has is asked for at once, as evaluation asks.
        test = dataclasses.replace(self.training, stage_one=refit, request_days=None).lists("test")
        retrieved = -np.tile(np.arange(test.candidate_rows.shape[1]), (len(test), 1))
        by_seed = []
        for seed in self.seeds:
            directory = _student_dir(out_dir, name, seed)
            weights = list_weights(list(np.load(directory / PARTS_FILE)), validation)
            parts = np.stack(scores_by_part(load_ranker(directory), test))
            by_seed.append({TEST: ndcg_of(_weighed(parts, weights), test)})
        first: dict[str, FloatArray] = {}
        return [
            *self._rows("as retrieved", [{TEST: ndcg_of(retrieved, test)}], first),
            *self._rows(name, by_seed, first),
        ]

    def _parts(self, name: str, seed: int, lists: RankerLists, validation: RankerLists, out_dir: Path) -> Parts:
        """Of validation's lists, by the student of a loss and a seed; trained and scored unless it was."""
        directory = _student_dir(out_dir, name, seed)
        if not (directory / PARTS_FILE).is_file():
            own = dataclasses.replace(self.training, student=self.recipes[name], seed=seed)
            dense, teacher = (load_ranker(self.ranker_dir / part) for part in ("dense", TEACHER))
            pl.seed_everything(seed, workers=True, verbose=False)  # all losses begin with the same weights
            student = own.taught_student(dense, teacher, lists)
            save_ranker(student, directory, spec_hash=own.spec.hash)
            np.save(directory / PARTS_FILE, np.stack(scores_by_part(student, validation)))
        parts: Parts = np.load(directory / PARTS_FILE)
        return parts

    def _teacher_scores(self, lists: RankerLists) -> NDArray[np.float32]:
        """[M, C] of all candidates; kept in the cache that training keeps them in."""
        teacher = load_ranker(self.ranker_dir / TEACHER)
        if not isinstance(teacher, Ranker):
            raise ValueError(f"{self.ranker_dir / TEACHER} holds no cross-encoder: run scripts/train_ranker.py")
        recipe = self.training.teacher
        cache = ScoreCache(Path(recipe.cache), open_scorer=partial(teacher_scorer, num_workers=recipe.num_workers))
        read = self.training.read_by(teacher, lists)
        return cache.score(teacher, read.tokens, read.dense)

    def _rows(
        self, name: str, by_seed: list[dict[str, FloatArray]], first: dict[str, FloatArray]
    ) -> Iterator[dict[str, Any]]:
        for measure in by_seed[0]:
            means = [float(own[measure].mean()) for own in by_seed]
            values = np.mean([own[measure] for own in by_seed], axis=0)
            own = intervals({measure: values}, generator=np.random.default_rng(self.training.seed))[measure]
            less = compare_systems(
                system=name,
                baseline="first",
                metric=measure,
                system_values={measure: values},
                baseline_values={measure: first.setdefault(measure, values)},
                generator=np.random.default_rng(self.training.seed),
            )
            yield {
                "distillation": name,
                "measure": measure,
                "value": own.value,
                "low": own.low,
                "high": own.high,
                "lowest_seed": min(means),
                "highest_seed": max(means),
                "less_first": less.value,
                "less_first_low": less.low,
                "less_first_high": less.high,
                "num_lists": len(values),
            }


def order_measures(parts: Parts, lists: RankerLists, *, generator: np.random.Generator) -> dict[str, FloatArray]:
    """NDCG@10 of each list [N], by what orders it.

    Args:
        parts: [2, N, C] scores.
        lists: all that were asked for; what retrieval has not found is missed.
        generator: of the halves. Each half is weighed as the other says: a release weighs by lists of validation too.
    """
    weighed = np.zeros((NUM_HALVINGS, len(lists)))
    for halving in range(NUM_HALVINGS):
        halves = np.array_split(generator.permutation(len(lists)), 2)
        for own, other in (halves, halves[::-1]):
            weights = list_weights(list(parts[:, other]), lists.take(other))
            weighed[halving, own] = ndcg_of(_weighed(parts[:, own], weights), lists.take(own))
    return {
        WEIGHED: weighed.mean(axis=0),
        f"ndcg@{K}, parts as learnt": ndcg_of(parts[0] + parts[1], lists),
        f"ndcg@{K}, text alone": ndcg_of(parts[1], lists),
    }


def agreement_measures(
    parts: Parts, teacher_scores: NDArray[np.float32], *, present: NDArray[np.bool_]
) -> dict[str, FloatArray]:
    """Kendall's tau of student and teacher in each list [M]: of their scores, and of their texts' parts.

    The dense part is one and the same, so the teacher's text is its score less that.

    Args:
        parts: [2, M, C] of the student.
        teacher_scores: [M, C].
        present: [M, C] where there is a candidate.
    """
    return {
        "tau with the teacher": _taus(parts[0] + parts[1], teacher_scores, present=present),
        "tau of the texts' parts": _taus(parts[1], teacher_scores - parts[0], present=present),
    }


def ndcg_of(scores: NDArray[Any], lists: RankerLists) -> FloatArray:
    """NDCG@10 [N] of lists in the order of scores [N, C]."""
    order = np.argsort(-np.where(lists.present, scores, -np.inf), axis=1, kind="stable")
    hits = np.take_along_axis(lists.relevance, order, axis=1) > 0
    return ndcg(hits.astype(np.float64), num_relevant=lists.num_relevant, k=K)


def _weighed(parts: Parts, weights: FloatArray) -> FloatArray:
    return np.asarray(weights[0] * parts[0] + weights[1] * parts[1])


def _taus(scores: NDArray[np.float32], others: NDArray[np.float32], *, present: NDArray[np.bool_]) -> FloatArray:
    own = [kendalltau(scores[n, kept], others[n, kept]).statistic for n, kept in enumerate(present)]
    return np.nan_to_num(np.array(own))  # one score for all agrees in nothing


def _student_dir(out_dir: Path, name: str, seed: int) -> Path:
    return out_dir / "students" / name / f"seed_{seed}"
