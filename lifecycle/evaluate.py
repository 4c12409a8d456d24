"""Step evaluate: every system on the same test requests by one evaluator, full ranking, with intervals, slice by slice.

Owns the order of these, and the report. Systems are systems.py's and baselines.py's, slices slices.py's and
groups.py's, what is measured on a slice measure.py's; metrics and intervals are evaluation/'s.
"""

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.lists import RankedLists
from evaluation.report import Report
from evaluation.variety import variety
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from lifecycle.baselines import Baselines
from lifecycle.calibrated import calibrated
from lifecycle.candidates import Requests, StageOne
from lifecycle.groups import groups_of
from lifecycle.leaks import LeakCheck, sampled
from lifecycle.list_files import write_lists
from lifecycle.measure import TEACHER_COMPARED, Measure
from lifecycle.report_files import write_files
from lifecycle.slices import MIN_REQUESTS, Slice, slices_of
from lifecycle.systems import LIST_LENGTH, Systems, alone, as_retrieved
from lifecycle.train_ranker import check_num_ranked

logger = logging.getLogger(__name__)

VARIETY_KS = (10, 100)


@dataclass(frozen=True)
class Evaluation:
    """Everything that the step needs.

    Attributes:
        refit: stage 1 that is released; fold: stage 1 without the refit, as published numbers have it.
        num_candidates: retrieved; num_ranked: of these, re-ordered by a ranker.
        teacher_queries: queries that the teacher is measured on, for it takes a second each.
        leak_requests: test requests that are asked again of a log that ends before them; 0: none.
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
    leak_requests: int
    seed: int
    seconds: Mapping[str, float]
    lists_dir: Path | None

    def run(self, out_dir: Path) -> None:
        """Write report.json, its tables and the plots with their CSVs.

        Raises:
            ParityFailed: something that is evaluated knows what came after a request.
        """
        check_num_ranked(self.ranker_dir, self.num_ranked)
        recommendable = self.protocol.recommendable(self.dataset, self.refit.cut.splits)
        asked = self.protocol.looked_for(self.protocol.asked(self.dataset, "test"), recommendable=recommendable)
        if len(asked) < MIN_REQUESTS:
            raise ValueError(
                f"the test split gives {len(asked)} requests and {MIN_REQUESTS} are needed for an interval: give it "
                "events by the settings of dataset.split, or look for more by dataset.count_unreachable"
            )
        num_had = self.dataset.queries_of_items(self.refit.cut.splits)
        cold = recommendable & (num_had == 0)
        slices = slices_of(self.dataset, asked, repeats=self.protocol.repeats, is_cold=cold)
        main = slices[0]
        groups = groups_of(self.dataset, asked, main=main, num_had=num_had, recommendable=recommendable)
        requests = {
            excluding: self._ask(self.refit, asked, excluding) for excluding in {own.exclude_seen for own in slices}
        }
        fitted = Baselines.fit(self.dataset, self.protocol, self.refit.cut)
        self._refuse_leaks(asked, fitted)
        systems = self._systems(requests, fitted)
        taught = np.sort(np.random.default_rng(self.seed).permutation(len(asked))[: self.teacher_queries])
        teacher = self._trained().teacher_lists(
            requests[main.exclude_seen].take(taught),
            dataset=self.dataset,
            learnt_on=self.fold,
            cache=self.teacher_cache,
        )
        probabilities = calibrated(
            systems[main.exclude_seen], main, ranker_dir=self.ranker_dir, num_ranked=self.num_ranked, seed=self.seed
        )
        report = replace(
            self._report(slices, systems, asked=asked, taught=taught, teacher=teacher),
            groups=self._measure(asked).groups(groups, systems[main.exclude_seen]),
            variety=self._variety(main, systems[main.exclude_seen], num_had=num_had, recommendable=recommendable),
            calibration=probabilities.calibration,
        )
        table = write_files(report, probabilities.reliabilities, directory=out_dir)
        logger.info("evaluation of %d requests\n%s", len(asked), table)
        logger.info("by popularity of items and length of histories, and what lists show: %s", out_dir / "groups.txt")
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

    def _refuse_leaks(self, asked: PastRequests, fitted: Baselines) -> None:
        if not self.leak_requests:
            return
        some = sampled(asked, num=self.leak_requests, generator=np.random.default_rng(self.seed))
        check = LeakCheck(dataset=self.dataset, protocol=self.protocol, stage_one=self.refit, baselines=fitted)
        report = check.run(some, split="test")
        report.check(float_tolerance=0.0)
        logger.info(
            "leaks: none; %d requests get the same of a log that ends before them, in all of %d arrays",
            *(len(some), len(report.fields)),
        )

    def _measure(self, asked: PastRequests) -> Measure:
        return Measure(graded=bool((asked.grades[asked.relevant > 0] != 1.0).any()), seed=self.seed)

    def _systems(self, requests: Mapping[bool, Requests], fitted: Baselines) -> dict[bool, dict[str, RankedLists]]:
        """Lists by whether they leave out what a query had, and by system."""
        some = next(iter(requests.values()))
        systems = fitted.lists(some.asked, some.inputs, exclude_seen=tuple(requests), k=LIST_LENGTH)
        for excluding, own in requests.items():
            for name in self.refit.stage1.retrievers:
                found = as_retrieved(self._ask(_only(self.refit, name), own.asked, excluding))
                if found.rows.any():  # where nothing is repeated, repeats have nothing to say
                    systems[excluding][alone(name)] = found
            others = {
                "towers_learned": _only(self.refit.blended_by(self.refit.stage1.blend.learned_alone), "towers"),
                "towers_no_refit": _only(self.fold, "towers"),
                "fused_no_refit": self.fold,
            }
            if self.refit.stage1.spec.text.query_tokens:
                by_text = self.refit.stage1.blend.text_alone
                others["text_cosine"] = _only(self.refit.blended_by(by_text), "towers")
            for name, stage_one in others.items():
                systems[excluding][name] = as_retrieved(self._ask(stage_one, own.asked, excluding))
            systems[excluding] |= self._trained().lists(own)
        return systems

    def _report(
        self,
        slices: Sequence[Slice],
        systems: Mapping[bool, Mapping[str, RankedLists]],
        *,
        asked: PastRequests,
        taught: NDArray[np.int64],
        teacher: RankedLists,
    ) -> Report:
        measure, main = self._measure(asked), slices[0]
        measured = {own.name: measure.slice_report(own, systems[own.exclude_seen]) for own in slices}
        # The teacher stands in the main slice alone, on its own sample of the requests.
        sample = replace(
            main, places=np.arange(len(taught)), relevant=main.relevant[taught], grades=main.grades[taught]
        )
        of_teacher = measure.values(teacher, sample)
        differences = []
        for name in TEACHER_COMPARED:
            if name in systems[main.exclude_seen]:
                values = measure.values(systems[main.exclude_seen][name], main)
                beside = {metric: own[taught] for metric, own in values.items()}
                differences.append(measure.compared("fused_teacher", name, of_teacher, beside))
        return Report(
            dataset=self.dataset.name,
            split=f"{self.protocol.description}, refitted on training + validation"
            + (", graded gains" if measure.graded else ""),
            slice=main.name,
            num_queries=len(main.places),
            systems={**measured[main.name].systems, "fused_teacher": measure.intervals(of_teacher)},
            comparisons=(*measured[main.name].comparisons, *differences),
            slices={own.name: measured[own.name] for own in slices[1:]},
            seconds=dict(self.seconds),
            notes={
                **dict.fromkeys(
                    ("towers_no_refit", "fused_no_refit"),
                    "trained on the training events alone; its histories hold all before a request",
                ),
                "fused_teacher": f"on a seeded sample of {len(taught)} queries",
                **(
                    {"fused_student_shuffled_texts": "control: every item carries the text of another one"}
                    if "fused_student_shuffled_texts" in systems[main.exclude_seen]
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

    def _variety(
        self,
        main: Slice,
        systems: Mapping[str, RankedLists],
        *,
        num_had: NDArray[np.int64],
        recommendable: NDArray[np.bool_],
    ) -> dict[str, Mapping[str, float]]:
        log = self.dataset.events
        num_queries = len(np.unique(log.query_of(log.positives(self.refit.cut.splits))))
        return {
            name: variety(
                lists.rows[main.places], allowed=recommendable, num_had=num_had, num_queries=num_queries, ks=VARIETY_KS
            )
            for name, lists in systems.items()
        }


def _only(stage_one: StageOne, name: str) -> StageOne:
    """With candidates of one retriever."""
    return stage_one.fused_by(stage_one.stage1.fusion.alone(name, quota=LIST_LENGTH))
