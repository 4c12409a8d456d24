"""Step evaluate: every system on the same test events by one evaluator, full ranking, with intervals.

Owns which systems there are and what is compared with what. Metrics and intervals are evaluation/'s.
"""

import dataclasses
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.lists import RankedLists
from evaluation.plots import save_plot, systems_figure, systems_table
from evaluation.report import Report, compare_systems, evaluate_system, query_metrics, text_table, write_report
from features.dataset import Dataset
from features.vocab import FIRST
from lifecycle.baselines import baseline_lists
from lifecycle.candidates import Requests, StageOne
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, TEACHER, check_num_ranked
from ranking.data import RankerLists
from ranking.export import load_ranker
from ranking.gradient_boosting import BoostedTrees
from ranking.teacher import ScoreCache
from serving.models import OnnxModels
from serving.postprocess import final_order
from serving.release import RANKER_FILE
from serving.retrieval import QUERY_TOWER_FILE

logger = logging.getLogger(__name__)

KS = (10, 20, 100)
LIST_LENGTH = 100
COMPARED_METRIC = "ndcg@10"
BATCH_SIZE = 8

Scorer = Callable[[RankerLists], NDArray[np.float32]]


@dataclass(frozen=True)
class Evaluation:
    """Everything that the step needs.

    Attributes:
        refit: stage 1 that is released; fold: stage 1 without the refit, as published numbers have it.
        num_candidates: retrieved; num_ranked: of these, re-ordered by a ranker.
        teacher_queries: queries that the teacher is measured on, for it takes a second each.
        lists_dir: where each system's top 100 is written as parquet; None writes none.
    """

    dataset: Dataset
    fold: StageOne
    refit: StageOne
    towers_dir: Path
    ranker_dir: Path
    num_candidates: int
    num_ranked: int
    teacher_queries: int
    teacher_cache: Path
    seed: int
    seconds: Mapping[str, float]
    lists_dir: Path | None

    def run(self, out_dir: Path) -> None:
        """Write report.json, table.txt and the plot with its CSV."""
        check_num_ranked(self.ranker_dir, self.num_ranked)
        places = self.dataset.events.places(["test"])
        requests = self.refit.ask(self.dataset, places, num_candidates=self.num_candidates)
        systems = self._systems(requests, places)
        sampled = np.sort(np.random.default_rng(self.seed).permutation(len(places))[: self.teacher_queries])
        report = self._report(systems, requests.targets, sampled=sampled, teacher=self._teacher(requests, sampled))
        write_report(report, path=out_dir / "report.json")
        table = text_table(report)
        (out_dir / "table.txt").write_text(table + "\n")
        frame = systems_table(report)
        save_plot(systems_figure(frame), table=frame, path=out_dir / "systems.png")
        logger.info("evaluation of %d queries\n%s", len(places), table)
        if self.lists_dir is not None:
            self._write_lists(systems, places)

    def _systems(self, requests: Requests, places: NDArray[np.int64]) -> dict[str, RankedLists]:
        stage1 = self.refit.stage1
        num_rows = len(stage1.catalogue)
        systems = dict(baseline_lists(self.dataset, self.refit.cut, requests.inputs, num_rows=num_rows, k=LIST_LENGTH))
        no_refit = self.fold.ask(self.dataset, places, num_candidates=LIST_LENGTH)
        systems["towers_no_refit"] = _as_retrieved(no_refit)
        systems["towers"] = _as_retrieved(requests)
        lists = self.refit.lists(self.dataset, requests, num_ranked=self.num_ranked, relevance={})
        trees = BoostedTrees.load(self.ranker_dir / GRADIENT_BOOSTING)
        systems["towers_lightgbm"] = _reordered(requests, trees.score(lists.dense))
        student = self._student()
        systems["towers_student"] = _reordered(requests, student(lists))
        shuffled = self._with_shuffled_texts().lists(self.dataset, requests, num_ranked=self.num_ranked, relevance={})
        systems["towers_student_shuffled_texts"] = _reordered(requests, student(shuffled))
        return systems

    def _student(self) -> Scorer:
        models = OnnxModels(
            query_tower=self.towers_dir / self.refit.cut.name / QUERY_TOWER_FILE,
            ranker=self.ranker_dir / STUDENT / RANKER_FILE,
            num_threads=2,
        )

        def score(lists: RankerLists) -> NDArray[np.float32]:
            batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(lists), BATCH_SIZE)]
            return np.concatenate(
                [
                    models.ranker(tokens=lists.tokens[batch].astype(np.int64), dense=lists.dense[batch])
                    for batch in tqdm(batches, desc="student scores", unit="batch")
                ]
            )

        return score

    def _with_shuffled_texts(self) -> StageOne:
        """The released stage 1, but every item carries the text of another one."""
        items = self.refit.stage1.items
        order = np.arange(len(items.item_id))
        order[FIRST:] = np.random.default_rng(self.seed).permutation(order[FIRST:])
        shuffled = dataclasses.replace(
            items, title_tokens=items.title_tokens[order], text_tokens=items.text_tokens[order]
        )
        return dataclasses.replace(self.refit, stage1=dataclasses.replace(self.refit.stage1, items=shuffled))

    def _teacher(self, requests: Requests, sampled: NDArray[np.int64]) -> RankedLists:
        own = requests.take(sampled)
        lists = self.refit.lists(self.dataset, own, num_ranked=self.num_ranked, relevance={})
        scores = ScoreCache(self.teacher_cache).score(
            load_ranker(self.ranker_dir / TEACHER),
            lists.tokens.reshape(-1, lists.tokens.shape[-1]),
            lists.dense.reshape(-1, lists.dense.shape[-1]),
        )
        return _reordered(own, scores.reshape(lists.candidate_rows.shape))

    def _report(
        self,
        systems: Mapping[str, RankedLists],
        targets: NDArray[np.int64],
        *,
        sampled: NDArray[np.int64],
        teacher: RankedLists,
    ) -> Report:
        relevant = targets[:, None]
        values = {name: query_metrics(ranked=lists.rows, relevant=relevant, ks=KS) for name, lists in systems.items()}
        results = {
            name: evaluate_system(ranked=lists.rows, relevant=relevant, ks=KS, generator=self._generator())
            for name, lists in systems.items()
        }
        results["towers_teacher"] = evaluate_system(
            ranked=teacher.rows, relevant=relevant[sampled], ks=KS, generator=self._generator()
        )
        teacher_values = query_metrics(ranked=teacher.rows, relevant=relevant[sampled], ks=KS)
        pairs = [
            ("towers_lightgbm", "towers"),
            ("towers_student", "towers"),
            ("towers_student", "towers_student_shuffled_texts"),
            ("towers_student", "towers_lightgbm"),
            ("towers_lightgbm", "transitions_ease"),
            ("towers_student", "transitions_ease"),
            ("towers", "recent_popularity"),
        ]
        comparisons = [
            compare_systems(
                system=system,
                baseline=baseline,
                metric=COMPARED_METRIC,
                system_values=values[system],
                baseline_values=values[baseline],
                generator=self._generator(),
            )
            for system, baseline in pairs
        ]
        comparisons.append(
            compare_systems(
                system="towers_teacher",
                baseline="towers_student",
                metric=COMPARED_METRIC,
                system_values=teacher_values,
                baseline_values={name: own[sampled] for name, own in values["towers_student"].items()},
                generator=self._generator(),
            )
        )
        return Report(
            dataset=self.dataset.name,
            split="leave-one-out, full ranking, refitted on training + validation",
            num_queries=len(targets),
            systems=results,
            seconds=dict(self.seconds),
            comparisons=tuple(comparisons),
            notes={
                "towers_no_refit": "trained without each query's last 5 events; its history has all but the last",
                "towers_teacher": f"on a seeded sample of {len(sampled)} queries",
                "towers_student_shuffled_texts": "control: every item carries the text of another one",
            },
            environment={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "machine": platform.machine(),
                "threads": torch.get_num_threads(),
            },
        )

    def _generator(self) -> np.random.Generator:
        # The same resamples for every system, so that intervals differ by what the systems did alone.
        return np.random.default_rng(self.seed)

    def _write_lists(self, systems: Mapping[str, RankedLists], places: NDArray[np.int64]) -> None:
        if self.lists_dir is None:
            return
        self.lists_dir.mkdir(parents=True, exist_ok=True)
        events, catalogue = self.dataset.events, self.refit.stage1.catalogue
        query_ids = [events.query_ids[query] for query in events.query_of(places)]
        for name, lists in systems.items():
            shown = lists.rows >= FIRST
            table = pa.table(
                {
                    "query_id": np.repeat(query_ids, shown.sum(axis=1)),
                    "item_id": [catalogue.item_id(int(row)) for row in lists.rows[shown]],
                    "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in shown.sum(axis=1)]),
                    "score": lists.scores[shown],
                }
            )
            pq.write_table(table, self.lists_dir / f"{name}.parquet")
        truth = {"query_id": query_ids, "item_id": [events.item_ids[place] for place in places]}
        pq.write_table(pa.table(truth), self.lists_dir / "relevant.parquet")
        logger.info("top %d of %d systems, and relevant.parquet, lie in %s", LIST_LENGTH, len(systems), self.lists_dir)


def _as_retrieved(requests: Requests) -> RankedLists:
    found = requests.candidates
    return RankedLists(rows=found.rows[:, :LIST_LENGTH], scores=found.scores[:, :LIST_LENGTH, 0])


def _reordered(requests: Requests, ranker_scores: NDArray[np.float32]) -> RankedLists:
    """Top lists as the server would show them; the score is what orders them, falling from the list's length."""
    rows = np.zeros((len(ranker_scores), LIST_LENGTH), dtype=np.int64)
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    orders = final_order(requests.candidates.rows, ranker_scores, k=LIST_LENGTH)
    for n, order in enumerate(orders):
        rows[n, : len(order)] = requests.candidates.rows[n, order]
        ranked = order < ranker_scores.shape[1]
        below = ranker_scores[n].min() - 1.0 - np.arange(len(order), dtype=np.float32)
        scores[n, : len(order)] = np.where(
            ranked, ranker_scores[n, np.minimum(order, ranker_scores.shape[1] - 1)], below
        )
    return RankedLists(rows=rows, scores=scores)
