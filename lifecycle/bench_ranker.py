"""Rankers side by side on the same candidates: what each is worth, and what it takes.

Owns which rankers there are, their training from one teacher, and the rows of the frontier. How one is trained is
train_ranker.py's, what a row means on a figure evaluation/frontier.py's.

All rankers learn from the lists of the split ranking; weights of ensembles, and trees that have a student's score as a
feature, from those of validation, which no student has seen; what is measured are test requests.
"""

# Shapes: N lists of C candidates, F dense features.

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from evaluation.report import compare_systems, intervals, query_metrics
from features.requests import PastRequests
from features.transforms import RankerInputs
from lifecycle.candidates import Requests, StageOne
from lifecycle.list_weights import list_weights
from lifecycle.systems import as_retrieved, as_served, reordered, served_scorer
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, RankerTraining, StudentRecipe
from ranking.data import RankerLists
from ranking.gradient_boosting import BoostedTrees
from serving.models import OnnxModels
from serving.release import RANKER_FILE, read_item_states
from serving.retrieval import QUERY_TOWER_FILE

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

INT8_FILE = "ranker.int8.onnx"
METRIC = "ndcg@10"
RUNS = 30  # of each timing, after 3 of warm-up
TREE_ROUNDS = 100


@dataclass(frozen=True)
class RankerBench:
    """Everything that the bench needs.

    Attributes:
        training: of the fold; its own student is not trained.
        recipes: of the students, by name.
        ranker_dir: of the run, whose trees, dense part and teacher are taken over.
        refit: stage 1 that answers the test requests; towers_dir holds its models.
        num_timed: candidates that a request is timed with.
        num_reordered: of how many first candidates quality is measured too; all of them timed.
    """

    training: RankerTraining
    recipes: Mapping[str, StudentRecipe]
    ranker_dir: Path
    refit: StageOne
    towers_dir: Path
    num_timed: tuple[int, ...]
    num_reordered: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if missing := sorted(set(self.num_reordered) - set(self.num_timed)):
            raise ValueError(f"num_timed must hold what is re-ordered; {missing} of num_reordered are missing")

    def rows(self, out_dir: Path) -> Iterator[dict[str, Any]]:
        """Rows of the frontier, one a ranker, precision and number of candidates re-ordered."""
        test, lists, asked = self._test_lists()
        validation = self.training.lists("validation")
        trees_dir = self.ranker_dir / GRADIENT_BOOSTING
        trees = BoostedTrees.load(trees_dir)
        of_trees = trees.score(lists.dense)
        base = self._of_rows(as_retrieved(test).rows, asked)
        known = {"fused": base, "lightgbm": self._values(test, of_trees, asked)}
        free = dict.fromkeys(self.num_timed, 0.0)
        yield self._row("fused", "", base, known, times=free, num=0)
        tree_times = self._times(trees_dir, RANKER_FILE, lists)
        served = "release_ranker=gradient_boosting"
        yield from self._cuts("lightgbm", "", of_trees, test, asked, known, times=tree_times, served_by=served)
        for name, recipe in self.recipes.items():
            directory = self._student(name, recipe, out_dir)
            for precision, file in (("fp32", RANKER_FILE), ("int8", INT8_FILE)):
                score = self._scorer(directory, file)
                scores, times = score(lists), self._times(directory, file, lists)
                size = _bytes_an_item(directory)
                served = f"ranker/student={name}" if precision == "fp32" else ""
                yield from self._cuts(
                    name, precision, scores, test, asked, known, times=times, served_by=served, bytes_an_item=size
                )
            fp32 = self._scorer(directory, RANKER_FILE)
            of_test, of_validation = fp32(lists), fp32(validation)
            removed = fp32(dataclasses.replace(lists, dense=np.full_like(lists.dense, np.nan)))
            yield self._row(f"{name}, dense features removed", "fp32", self._values(test, removed, asked), known)
            weights = list_weights([of_validation, trees.score(validation.dense)], validation)
            both = (weights[0] * of_test + weights[1] * of_trees).astype(np.float32)
            times = {num: ms + tree_times[num] for num, ms in self._times(directory, RANKER_FILE, lists).items()}
            yield self._row(f"{name} + lightgbm", "fp32", self._values(test, both, asked), known, times=times)
            with_score = [with_feature(*own) for own in ((validation, of_validation), (lists, of_test))]
            for what, (learn, ask) in {
                "lightgbm of validation": (validation, lists),
                "the same with its score": with_score,
            }.items():
                late = self._late_trees(learn).score(ask.dense)
                yield self._row(f"{name}: {what}", "", self._values(test, late, asked), known)

    def _late_trees(self, lists: RankerLists) -> BoostedTrees:
        names = tuple(f"feature_{place}" for place in range(lists.dense.shape[2]))
        return self.training.gradient_boosting.fit_rounds(lists, num_rounds=TREE_ROUNDS, feature_names=names)

    def _student(self, name: str, recipe: StudentRecipe, out_dir: Path) -> Path:
        """Its directory, trained unless it was; the other rankers are the run's."""
        directory = out_dir / "students" / name
        for part in (GRADIENT_BOOSTING, "dense", "teacher"):
            if not (directory / part).is_dir():
                shutil.copytree(self.ranker_dir / part, directory / part)
        started = time.perf_counter()
        if not (directory / STUDENT / RANKER_FILE).is_file():
            dataclasses.replace(self.training, student=recipe).run(directory)
            logger.info("%s: trained in %.0f s", name, time.perf_counter() - started)
        student = directory / STUDENT
        if not (student / INT8_FILE).is_file():
            to_int8(student / RANKER_FILE, student / INT8_FILE)
        return student

    def _test_lists(self) -> tuple[Requests, RankerLists, PastRequests]:
        dataset, protocol, cut = self.training.dataset, self.training.protocol, self.refit.cut
        asked = protocol.looked_for(
            protocol.asked(dataset, "test"), recommendable=protocol.recommendable(dataset, cut.splits)
        )
        days = protocol.item_days(dataset, cut.splits)
        requests = self.refit.ask(dataset, asked, days=days, num_candidates=max(*self.num_timed, 10))
        return requests, self.refit.lists(requests, days=days, num_ranked=self.training.num_ranked), asked

    def _scorer(self, directory: Path, file: str) -> Callable[[RankerLists], FloatArray]:
        tower = self.towers_dir / self.refit.cut.name / QUERY_TOWER_FILE
        score = served_scorer(directory, query_tower=tower, ranker_file=file)
        own = np.arange(len(self.refit.stage1.items.item_id))
        return lambda lists: score(lists, own)

    def _cuts(
        self,
        name: str,
        precision: str,
        scores: FloatArray,
        test: Requests,
        asked: PastRequests,
        known: Mapping[str, FloatArray],
        *,
        times: Mapping[int, float],
        served_by: str,
        bytes_an_item: int = 0,
    ) -> Iterator[dict[str, Any]]:
        for num in self.num_reordered:
            values = self._values(test, scores[:, :num], asked)
            own = served_by
            if served_by and num != self.training.num_ranked:
                own = f"{served_by} ranker.num_ranked={num} serving.pipeline.num_ranked={num}"
            yield self._row(
                name, precision, values, known, times=times, num=num, served_by=own, bytes_an_item=bytes_an_item
            )

    def _values(self, test: Requests, scores: FloatArray, asked: PastRequests) -> FloatArray:
        return self._of_rows(reordered(test, scores).rows, asked)

    def _of_rows(self, rows: NDArray[np.int64], asked: PastRequests) -> FloatArray:
        return query_metrics(ranked=rows[:, :10], relevant=asked.relevant, ks=(10,))[METRIC].astype(np.float32)

    def _row(
        self,
        name: str,
        precision: str,
        values: FloatArray,
        known: Mapping[str, FloatArray],
        *,
        times: Mapping[int, float] | None = None,
        num: int | None = None,
        served_by: str = "",
        bytes_an_item: int = 0,
    ) -> dict[str, Any]:
        own = intervals({METRIC: values.astype(np.float64)}, generator=np.random.default_rng(self.seed))[METRIC]
        row: dict[str, Any] = {
            "ranker": name,
            "precision": precision,
            "num_reordered": self.training.num_ranked if num is None else num,
            "ndcg@10": own.value,
            "low": own.low,
            "high": own.high,
            "num_queries": len(values),
        }
        for other, others in known.items():
            found = compare_systems(
                system=name,
                baseline=other,
                metric=METRIC,
                system_values={METRIC: values.astype(np.float64)},
                baseline_values={METRIC: others.astype(np.float64)},
                generator=np.random.default_rng(self.seed),
            )
            row |= {f"less_{other}": found.value, f"less_{other}_low": found.low, f"less_{other}_high": found.high}
        row |= {f"cpu_ms_{timed}": np.nan if times is None else times[timed] for timed in self.num_timed}
        row |= {"bytes_an_item": bytes_an_item, "served_by": served_by}
        logger.info("%s %s, %d re-ordered: %s %s", name, precision, row["num_reordered"], METRIC, own)
        return row

    def _times(self, directory: Path, file: str, lists: RankerLists) -> dict[int, float]:
        """Processor ms of one request on one thread, median, by number of candidates."""
        models = OnnxModels(
            query_tower=self.towers_dir / self.refit.cut.name / QUERY_TOWER_FILE, ranker=directory / file, num_threads=1
        )
        states, own = read_item_states(directory), np.arange(len(self.refit.stage1.items.item_id))
        inputs = as_served(lists.take(np.arange(1)), own, states)
        return {num: cpu_ms(models, widened(inputs.by_name, num)) for num in self.num_timed}


def to_int8(source: Path, target: Path) -> None:
    """Weights of products in int8, activations as they come (onnxruntime's dynamic quantisation)."""
    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes that the exporter wrote, of which the quantiser finds some wrong
    partial = target.with_name(f"{target.name}.partial")
    quantize_dynamic(model, partial, weight_type=QuantType.QInt8)
    os.replace(partial, target)


def with_feature(lists: RankerLists, scores: FloatArray) -> RankerLists:
    """The same lists with one more dense feature [N, C]."""
    return dataclasses.replace(lists, dense=np.concatenate([lists.dense, scores[..., None]], axis=2))


def widened(arrays: Mapping[str, NDArray[Any]], num: int) -> dict[str, NDArray[Any]]:
    """One request with so many candidates, its own again and again."""
    return {
        name: array
        if name == "context_tokens"
        else np.ascontiguousarray(np.resize(array[0], (num, *array.shape[2:]))[None])
        for name, array in arrays.items()
    }


def cpu_ms(models: OnnxModels, arrays: Mapping[str, NDArray[Any]]) -> float:
    """Median processor time of a call, so that what else the machine does hardly counts."""
    inputs, times = RankerInputs(**arrays), []
    for run in range(RUNS + 3):
        started = time.process_time()
        models.ranker(inputs)
        if run >= 3:
            times.append(time.process_time() - started)
    return float(np.median(times)) * 1000.0


def _bytes_an_item(directory: Path) -> int:
    states = read_item_states(directory)
    return 0 if states is None else int(np.prod(states.shape[1:]))
