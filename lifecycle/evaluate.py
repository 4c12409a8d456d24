"""Step evaluate: every system on the same test requests by one evaluator, full ranking, with intervals, slice by slice.

Owns what is compared with what, and the report. Systems are systems.py's and baselines.py's, slices slices.py's;
metrics and intervals are evaluation/'s.
"""

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.lists import RankedLists
from evaluation.metrics import FloatArray
from evaluation.plots import save_plot, systems_figure, systems_table
from evaluation.report import Comparison, Report, SliceReport, compare_systems, intervals, query_metrics, write_report
from evaluation.tables import text_table
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from lifecycle.baselines import Baselines
from lifecycle.candidates import Requests, StageOne
from lifecycle.list_files import write_lists
from lifecycle.slices import MIN_REQUESTS, Slice, slices_of
from lifecycle.systems import LIST_LENGTH, Systems, alone, as_retrieved
from lifecycle.train_ranker import check_num_ranked
from serving.retrieval import RETRIEVERS

logger = logging.getLogger(__name__)

KS = (10, 20, 100, 200)
COMPARED_METRIC = "ndcg@10"
# Pairs of which one is not measured on a slice are left out.
COMPARED = (
    ("fused", "towers"),
    ("fused_lightgbm", "fused"),
    ("fused_student", "fused"),
    ("fused_student", "fused_student_shuffled_texts"),
    ("fused_student", "fused_lightgbm"),
    ("fused", "transitions_ease"),
    ("fused", "ease_popularity_7d"),
    ("fused", "decayed_repeats_query_knn"),
    ("fused_lightgbm", "transitions_ease"),
    ("fused_student", "transitions_ease"),
    ("fused_lightgbm", "ease_popularity_7d"),
    ("fused_student", "ease_popularity_7d"),
    ("fused_lightgbm", "decayed_repeats_query_knn"),
    ("fused_student", "decayed_repeats_query_knn"),
    ("towers", "recent_popularity"),
)

# What the union holds, against what each retriever alone would have held in lists of the same length.
UNION_METRICS = ("recall@100", "recall@200")

Values = Mapping[str, Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Evaluation:
    """Everything that the step needs.

    Attributes:
        refit: stage 1 that is released; fold: stage 1 without the refit, as published numbers have it.
        num_candidates: retrieved; num_ranked: of these, re-ordered by a ranker.
        teacher_queries: queries that the teacher is measured on, for it takes a second each.
        lists_dir: where each system's top 200 is written as parquet; None writes none.
    """

    dataset: Dataset
    protocol: RequestProtocol
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
        """Write report.json, table.txt and the plots with their CSVs."""
        check_num_ranked(self.ranker_dir, self.num_ranked)
        recommendable = self.protocol.recommendable(self.dataset, self.refit.cut.splits)
        asked = self.protocol.looked_for(self.protocol.asked(self.dataset, "test"), recommendable=recommendable)
        if len(asked) < MIN_REQUESTS:
            raise ValueError(
                f"the test split gives {len(asked)} requests and {MIN_REQUESTS} are needed for an interval: give it "
                "events by the settings of dataset.split, or look for more by dataset.count_unreachable"
            )
        slices = slices_of(self.dataset, asked, repeats=self.protocol.repeats)
        main = slices[0]
        requests = {
            excluding: self._ask(self.refit, asked, excluding) for excluding in {own.exclude_seen for own in slices}
        }
        systems = self._systems(requests)
        sampled = np.sort(np.random.default_rng(self.seed).permutation(len(asked))[: self.teacher_queries])
        teacher = self._trained().teacher_lists(requests[main.exclude_seen].take(sampled), cache=self.teacher_cache)
        report = self._report(slices, systems, asked=asked, sampled=sampled, teacher=teacher)
        write_report(report, path=out_dir / "report.json")
        table = text_table(report)
        (out_dir / "table.txt").write_text(table + "\n")
        for name in (report.slice, *report.slices):
            frame = systems_table(report, name=name)
            stem = "systems" if name == report.slice else f"systems_{name.replace(' ', '_')}"
            save_plot(systems_figure(frame), table=frame, path=out_dir / f"{stem}.png")
        logger.info("evaluation of %d requests\n%s", len(asked), table)
        if self.lists_dir is not None:
            write_lists(systems[main.exclude_seen], dataset=self.dataset, asked=asked, directory=self.lists_dir)

    def _ask(self, stage_one: StageOne, asked: PastRequests, exclude_seen: bool) -> Requests:
        # All that a query had is left out, not the newest part of it that stores keep alone.
        excluded = asked.seen_rows(self.dataset) if exclude_seen else np.zeros((len(asked), 0), dtype=np.int64)
        days = self.protocol.item_days(self.dataset, stage_one.cut.splits)
        num_candidates = max(self.num_candidates, LIST_LENGTH)
        return stage_one.ask(self.dataset, asked, days=days, num_candidates=num_candidates, excluded=excluded)

    def _trained(self) -> Systems:
        return Systems(
            stage_one=self.refit,
            days=self.protocol.item_days(self.dataset, self.refit.cut.splits),
            towers_dir=self.towers_dir,
            ranker_dir=self.ranker_dir,
            num_ranked=self.num_ranked,
            seed=self.seed,
        )

    def _systems(self, requests: Mapping[bool, Requests]) -> dict[bool, dict[str, RankedLists]]:
        """Lists by whether they leave out what a query had, and by system."""
        some = next(iter(requests.values()))
        fitted = Baselines.fit(self.dataset, self.protocol, self.refit.cut)
        systems = fitted.lists(some.asked, some.inputs, exclude_seen=tuple(requests), k=LIST_LENGTH)
        for excluding, own in requests.items():
            for name in RETRIEVERS:
                found = as_retrieved(self._ask(_only(self.refit, name), own.asked, excluding))
                if found.rows.any():  # where nothing is repeated, repeats have nothing to say
                    systems[excluding][alone(name)] = found
            for name, fold in (("towers_no_refit", _only(self.fold, "towers")), ("fused_no_refit", self.fold)):
                systems[excluding][name] = as_retrieved(self._ask(fold, own.asked, excluding))
            systems[excluding] |= self._trained().lists(own)
        return systems

    def _report(
        self,
        slices: Sequence[Slice],
        systems: Mapping[bool, Mapping[str, RankedLists]],
        *,
        asked: PastRequests,
        sampled: NDArray[np.int64],
        teacher: RankedLists,
    ) -> Report:
        graded = bool((asked.grades[asked.relevant > 0] != 1.0).any())
        values = {own.name: _values(systems[own.exclude_seen], own, graded=graded) for own in slices}
        measured = {own.name: self._measured(own, values[own.name]) for own in slices}
        main = slices[0]
        # The teacher stands in the main slice alone, on its own sample of the requests.
        of_teacher = query_metrics(
            ranked=teacher.rows,
            relevant=main.relevant[sampled],
            grades=main.grades[sampled] if graded else None,
            ks=KS,
        )
        beside = {name: own[sampled] for name, own in values[main.name]["fused_student"].items()}
        difference = self._compared("fused_teacher", "fused_student", of_teacher, beside)
        teacher_intervals = intervals(of_teacher, generator=self._generator())
        return Report(
            dataset=self.dataset.name,
            split=f"{self.protocol.description}, refitted on training + validation"
            + (", graded gains" if graded else ""),
            slice=main.name,
            num_queries=len(main.places),
            systems={**measured[main.name].systems, "fused_teacher": teacher_intervals},
            comparisons=(*measured[main.name].comparisons, difference),
            slices={own.name: measured[own.name] for own in slices[1:]},
            seconds=dict(self.seconds),
            notes={
                **dict.fromkeys(
                    ("towers_no_refit", "fused_no_refit"),
                    "trained on the training events alone; its histories hold all before a request",
                ),
                "fused_teacher": f"on a seeded sample of {len(sampled)} queries",
                **(
                    {"fused_student_shuffled_texts": "control: every item carries the text of another one"}
                    if "fused_student_shuffled_texts" in values[main.name]
                    else {}
                ),
            },
            environment={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "machine": platform.machine(),
                "threads": torch.get_num_threads(),
            },
        )

    def _measured(self, part: Slice, values: Values) -> SliceReport:
        return SliceReport(
            num_queries=len(part.places),
            num_pairs=part.num_pairs,
            note=part.note,
            systems={name: intervals(own, generator=self._generator()) for name, own in values.items()},
            comparisons=tuple(
                self._compared(system, baseline, values[system], values[baseline], metric=metric)
                for system, baseline, metric in _compared()
                if system in values and baseline in values
            ),
        )

    def _compared(
        self,
        system: str,
        baseline: str,
        values: Mapping[str, FloatArray],
        baseline_values: Mapping[str, FloatArray],
        *,
        metric: str = COMPARED_METRIC,
    ) -> Comparison:
        return compare_systems(
            system=system,
            baseline=baseline,
            metric=metric,
            system_values=values,
            baseline_values=baseline_values,
            generator=self._generator(),
        )

    def _generator(self) -> np.random.Generator:
        # The same resamples for every system, so that intervals differ by what the systems did alone.
        return np.random.default_rng(self.seed)


def _compared() -> list[tuple[str, str, str]]:
    """System, baseline and metric of all comparisons."""
    of_order = [(system, baseline, COMPARED_METRIC) for system, baseline in COMPARED]
    return of_order + [("fused", alone(name), metric) for metric in UNION_METRICS for name in RETRIEVERS]


def _only(stage_one: StageOne, name: str) -> StageOne:
    """With candidates of one retriever."""
    return stage_one.fused_by(stage_one.stage1.fusion.alone(name, quota=LIST_LENGTH))


def _values(systems: Mapping[str, RankedLists], part: Slice, *, graded: bool) -> dict[str, dict[str, FloatArray]]:
    """Metrics of each request of a slice by system."""
    return {
        name: query_metrics(
            ranked=lists.rows[part.places],
            relevant=part.relevant,
            grades=part.grades if graded else None,
            ks=KS,
        )
        for name, lists in systems.items()
    }
