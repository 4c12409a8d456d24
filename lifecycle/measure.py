"""Every system on one slice of the requests: means with intervals, and the paired differences that are asked for.

Owns which pairs of systems are compared and what is measured at which length. Metrics and intervals are evaluation/'s,
slices slices.py's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.lists import RankedLists
from evaluation.metrics import FloatArray
from evaluation.report import Comparison, SliceReport, compare_systems, intervals, query_metrics
from evaluation.significance import Interval
from evaluation.tables import TABLE_METRICS
from lifecycle.slices import Slice
from lifecycle.systems import alone
from serving.retrieval import retriever_names

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
    ("towers", "ease_popularity_7d"),
    ("towers", "towers_learned"),
    ("towers", "text_cosine"),
    ("towers", "bm25"),
    ("fused", "bm25"),
    ("fused_lightgbm", "bm25"),
    ("fused_student", "bm25"),
    ("fused_student", "towers"),
)
# On the teacher's sample of the requests.
TEACHER_COMPARED = ("fused_student", "fused", "towers", "bm25")

# What the union holds, against what each retriever alone would have held in lists of the same length.
UNION_METRICS = ("recall@100", "recall@200")

Values = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Measure:
    """How systems are measured.

    Attributes:
        graded: whether some of what is relevant is more so, and weighs more in NDCG.
        seed: of the resamples, which are the same for every system: intervals differ by what the systems did alone.
    """

    graded: bool
    seed: int

    def values(self, lists: RankedLists, part: Slice) -> dict[str, FloatArray]:
        """Metrics of each request of a slice; the lists are those of all requests."""
        return query_metrics(
            ranked=lists.rows[part.places],
            relevant=part.relevant,
            grades=part.grades if self.graded else None,
            ks=KS,
        )

    def slice_report(self, part: Slice, systems: Mapping[str, RankedLists]) -> SliceReport:
        """Every system on a slice, and the differences that are asked for."""
        values = {name: self.values(lists, part) for name, lists in systems.items()}
        pairs = [(one, other, metric) for one, other, metric in _asked_for() if one in values and other in values]
        return SliceReport(
            num_queries=len(part.places),
            num_pairs=part.num_pairs,
            note=part.note,
            systems={name: self.intervals(own) for name, own in values.items()},
            comparisons=tuple(
                self.compared(one, other, values[one], values[other], metric=metric) for one, other, metric in pairs
            ),
        )

    def groups(
        self, groups: Mapping[str, Sequence[Slice]], systems: Mapping[str, RankedLists]
    ) -> dict[str, dict[str, SliceReport]]:
        """Every system on each group, by TABLE_METRICS alone and without differences."""
        return {kind: {part.name: self._group(part, systems) for part in parts} for kind, parts in groups.items()}

    def _group(self, part: Slice, systems: Mapping[str, RankedLists]) -> SliceReport:
        measured = {}
        for name, lists in systems.items():
            values = self.values(lists, part)
            measured[name] = self.intervals({metric: values[metric] for metric in TABLE_METRICS})
        return SliceReport(num_queries=len(part.places), num_pairs=part.num_pairs, note=part.note, systems=measured)

    def intervals(self, values: Values) -> dict[str, Interval]:
        """Means with 95 % intervals."""
        return intervals(values, generator=self._generator())

    def compared(
        self, system: str, baseline: str, values: Values, baseline_values: Values, *, metric: str = COMPARED_METRIC
    ) -> Comparison:
        """A paired difference."""
        return compare_systems(
            system=system,
            baseline=baseline,
            metric=metric,
            system_values=values,
            baseline_values=baseline_values,
            generator=self._generator(),
        )

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def _asked_for() -> list[tuple[str, str, str]]:
    """System, baseline and metric of all comparisons."""
    names = retriever_names(query_text=True)
    of_order = [(system, baseline, COMPARED_METRIC) for system, baseline in COMPARED]
    return of_order + [("fused", alone(name), metric) for metric in UNION_METRICS for name in names]
