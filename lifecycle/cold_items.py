"""Cold start: items held out of training entirely are ranked among all others by their content.

Owns which items are held out, what they are compared with, and the table. Training is train_towers.py's, what
stands in the index for new items build_index.py's.
"""

# Shapes: N requests, M relevant items of the request that has most, R rows of the item table.

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.lists import RankedLists, top_items
from evaluation.metrics import FloatArray
from evaluation.report import intervals, query_metrics
from evaluation.significance import Interval
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.transforms import ItemInputs
from features.vocab import FIRST, PADDING
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.groups import popularity_deciles
from lifecycle.leaks import past_of
from serving.retrieval import RECOMMENDABLE_FILE, Stage1
from towers.index.build import FlatBuilder
from towers.index.snapshot import Snapshot
from towers.retrievers.new_items import NewItems

LIST_LENGTH = 100
METRICS = ("ndcg@10", "recall@100")
SPLITS = ("ranking", "test")  # early stopping looks at validation
NUM_RESAMPLES = 2000

# [requests] of each metric, by decile of popularity.
Strata = Mapping[int, Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Measured:
    """One system on the same requests: what was held out, and all else of the deciles that hold some of it."""

    held: Strata
    known: Strata


@dataclass(frozen=True)
class ColdItems:
    """Items held out of a log.

    Attributes:
        dataset: the whole log.
        protocol: what is asked.
        is_held: [R] items that training knows nothing of but their content.
        deciles: [R] of popularity on the fold of the whole log; 0 for what cannot be recommended.
    """

    dataset: Dataset
    protocol: RequestProtocol
    is_held: NDArray[np.bool_]
    deciles: NDArray[np.int64]

    @classmethod
    def draw(
        cls,
        dataset: Dataset,
        protocol: RequestProtocol,
        *,
        share: float,
        min_queries: int,
        generator: np.random.Generator,
    ) -> "ColdItems":
        """Hold out a share of the items of each popularity decile that at least `min_queries` queries had on the fold.

        Raises:
            ValueError: that is none.
        """
        num_had, allowed = dataset.queries_of_items(FOLD.splits), protocol.recommendable(dataset, FOLD.splits)
        deciles = popularity_deciles(num_had, recommendable=allowed)
        is_held = np.zeros(len(num_had), dtype=np.bool_)
        for decile in np.unique(deciles[deciles > 0]):
            rows = np.flatnonzero((deciles == decile) & (num_had >= min_queries))
            is_held[generator.permutation(rows)[: round(share * len(rows))]] = True
        if not is_held.any():
            raise ValueError(f"no item is held out: too few had {min_queries} queries to take {share:g} of them")
        return cls(dataset=dataset, protocol=protocol, is_held=is_held, deciles=deciles)

    @property
    def known(self) -> Dataset:
        """The log as if nobody had ever had these items."""
        nobody = self.protocol.asked(self.dataset, SPLITS[-1]).take(slice(0, 0))
        return past_of(self.dataset, nobody, kept=self._is_kept)[0]

    @property
    def _is_kept(self) -> NDArray[np.bool_]:
        return np.asarray(~self.is_held[self.dataset.event_rows()])

    def recommend_all(self, towers_dir: Path) -> None:
        """Let what is held out be recommended by the towers that were trained on `known`, before they are indexed."""
        np.save(towers_dir / FOLD.name / RECOMMENDABLE_FILE, self.deciles > 0, allow_pickle=False)

    def measure(
        self, stage_one: StageOne, *, informed: StageOne, generator: np.random.Generator
    ) -> tuple[dict[str, Measured], dict[str, FloatArray]]:
        """Every system on the requests of SPLITS: ranking all items, held out or not, and ranking those held out alone.

        Args:
            stage_one: of the fold that was trained and indexed on `known`.
            informed: of the fold of the whole log, which has seen the training events of what is held out.
            generator: of the random lists.

        Returns:
            By system: the full ranking, and NDCG@10 [requests] of the shelf of what is held out, where that was chosen.
        """
        parts: dict[str, list[Measured]] = defaultdict(list)
        shelves: dict[str, list[FloatArray]] = defaultdict(list)
        for split in SPLITS:
            asked = self.protocol.looked_for(self.protocol.asked(self.dataset, split), recommendable=self.deciles > 0)
            asked = asked.only(~asked.had)
            for name, lists in self._lists(asked, stage_one, generator=generator).items():
                parts[name].append(self._measured(asked, lists))
            asked = asked.only(self.is_held[asked.relevant])
            asked = asked.take(np.flatnonzero((asked.relevant != PADDING).any(axis=1)))
            for name, lists in self._shelves(asked, stage_one, informed, generator=generator).items():
                shelves[name].append(_values(asked, lists, kept=np.ones_like(asked.had))[METRICS[0]])
        return {name: pooled(own) for name, own in parts.items()}, {
            name: np.concatenate(own) for name, own in shelves.items()
        }

    def _lists(
        self, asked: PastRequests, stage_one: StageOne, *, generator: np.random.Generator
    ) -> dict[str, RankedLists]:
        allowed, shape = self.deciles > 0, (len(asked), len(self.deciles))
        known, asked_then = past_of(self.dataset, asked, kept=self._is_kept)
        # What a query had is no answer, also where it is held out and no system knows of it.
        seen = asked.seen_rows(self.dataset)
        num_had = known.queries_of_items(FOLD.splits).astype(np.float64)
        by_category = category_popularity(num_had, items=stage_one.stage1.items, known=allowed & ~self.is_held)
        scores = {
            "random": generator.random(shape),
            "popularity": np.broadcast_to(num_had, shape),
            "popularity of its categories": np.broadcast_to(np.where(self.is_held, by_category, num_had), shape),
        }
        embedded = as_embedded(stage_one, new=self.is_held)
        lists = {
            name: self._answers(system, known, asked_then, seen=seen)
            for name, system in {
                "fused": stage_one,
                "towers": _towers(stage_one, allowed),
                "fused, as embedded": embedded,
                "towers, as embedded": _towers(embedded, allowed),
            }.items()
        }
        return lists | {
            name: top_items(own, k=LIST_LENGTH, allowed=allowed, excluded=seen) for name, own in scores.items()
        }

    def _shelves(
        self, asked: PastRequests, stage_one: StageOne, informed: StageOne, *, generator: np.random.Generator
    ) -> dict[str, RankedLists]:
        """Of what is held out alone."""
        known, asked_then = past_of(self.dataset, asked, kept=self._is_kept)
        seen, shape = asked.seen_rows(self.dataset), (len(asked), len(self.deciles))
        num_had = known.queries_of_items(FOLD.splits).astype(np.float64)
        is_known = (self.deciles > 0) & ~self.is_held
        by_category = category_popularity(num_had, items=stage_one.stage1.items, known=is_known)
        embedded = as_embedded(stage_one, new=self.is_held)
        scores = {
            "random": generator.random(shape),
            "popularity of its categories": np.broadcast_to(by_category, shape),
        }
        return {
            "towers": self._answers(_towers(stage_one, self.is_held), known, asked_then, seen=seen),
            "towers, as embedded": self._answers(_towers(embedded, self.is_held), known, asked_then, seen=seen),
            "towers trained with them": self._answers(_towers(informed, self.is_held), self.dataset, asked, seen=seen),
            **{
                name: top_items(own, k=LIST_LENGTH, allowed=self.is_held, excluded=seen) for name, own in scores.items()
            },
        }

    def _answers(
        self, stage_one: StageOne, log: Dataset, asked: PastRequests, *, seen: NDArray[np.int64]
    ) -> RankedLists:
        days = self.protocol.item_days(log, FOLD.splits)
        found = stage_one.ask(log, asked, days=days, num_candidates=LIST_LENGTH, excluded=seen).candidates
        return RankedLists(rows=found.rows, scores=found.scores[:, :, 0])

    def _measured(self, asked: PastRequests, lists: RankedLists) -> Measured:
        of_pairs = np.where(asked.relevant == PADDING, 0, self.deciles[asked.relevant])  # [N, M]
        is_held = self.is_held[asked.relevant]
        held, known = {}, {}
        for decile in np.unique(self.deciles[self.is_held]).tolist():
            held[decile] = _values(asked, lists, kept=(of_pairs == decile) & is_held)
            known[decile] = _values(asked, lists, kept=(of_pairs == decile) & ~is_held)
        return Measured(held=held, known=known)


def as_embedded(stage_one: StageOne, *, new: NDArray[np.bool_]) -> StageOne:
    """The same with the item tower's embeddings of new items [R], and nothing else of them."""
    linear = np.where(new[:, None], np.float32(0.0), stage_one.stage1.linear_embeddings)
    stage1 = replace(stage_one.stage1, linear_embeddings=linear, new_items=NewItems.none())
    return replace(stage_one, stage1=_indexed(stage1, stage1.recommendable))


def _towers(stage_one: StageOne, allowed: NDArray[np.bool_]) -> StageOne:
    """The towers without the other retrievers, searching some items [R] alone."""
    stage1 = _indexed(stage_one.stage1, allowed)
    return replace(stage_one, stage1=stage1).fused_by(stage1.fusion.alone("towers", quota=LIST_LENGTH))


def _indexed(stage1: Stage1, allowed: NDArray[np.bool_]) -> Stage1:
    rows = np.flatnonzero(allowed)
    snapshot = Snapshot(FlatBuilder().build(stage1.indexed(rows), rows))
    return replace(stage1, snapshot=snapshot, recommendable=allowed)


def category_popularity(
    num_had: NDArray[np.float64], *, items: ItemInputs, known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[R] mean over an item's category values of the mean popularity of known items with this value.

    Args:
        num_had: [R] queries that had each item.
        items: the item table.
        known: [R] items whose popularity may be used; also their mean, for an item without a known value.
    """
    sums, counts = np.zeros(len(num_had)), np.zeros(len(num_had))
    for column in range(items.categories.shape[1]):
        values = items.categories[:, column, :]  # [R, M]
        rows, places = np.nonzero((values >= FIRST) & known[:, None])
        totals = np.bincount(values[rows, places], weights=num_had[rows], minlength=int(values.max(initial=0)) + 1)
        sizes = np.bincount(values[rows, places], minlength=len(totals))
        rows, places = np.nonzero(sizes[values] * (values >= FIRST))
        own = values[rows, places]
        np.add.at(sums, rows, totals[own] / sizes[own])
        np.add.at(counts, rows, 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), num_had[known].mean())


def pooled(parts: Sequence[Measured]) -> Measured:
    """Requests of several splits or seeds as one sample."""

    def together(strata: Sequence[Strata]) -> Strata:
        deciles = sorted({decile for own in strata for decile in own})
        return {
            decile: {name: np.concatenate([own[decile][name] for own in strata if decile in own]) for name in METRICS}
            for decile in deciles
        }

    return Measured(held=together([own.held for own in parts]), known=together([own.known for own in parts]))


def matched(measured: Measured, metric: str, *, generator: np.random.Generator) -> tuple[Interval, Interval]:
    """Mean of the known items at the popularity of those held out, and what share of it these reach.

    Known items of a decile weigh as much as requests for items held out of it. Intervals are the middle 95 % of
    resamples within each decile.
    """
    pairs = [
        (own[metric], measured.known[decile][metric])
        for decile, own in measured.held.items()
        if len(own[metric]) and len(measured.known[decile][metric])
    ]
    weights = np.array([len(held) for held, _ in pairs]) / sum(len(held) for held, _ in pairs)

    def means(values: Sequence[FloatArray]) -> FloatArray:
        """[1 + NUM_RESAMPLES] of the sample, then of its resamples."""
        drawn = [
            np.r_[own.mean(), own[generator.integers(len(own), size=(NUM_RESAMPLES, len(own)))].mean(axis=1)]
            for own in values
        ]
        return np.asarray(weights @ np.stack(drawn))

    held, known = means([held for held, _ in pairs]), means([known for _, known in pairs])
    return _interval(known), _interval(held / known)


def cold_table(systems: Mapping[str, Measured], *, seed: int) -> str:
    """Systems by what is held out, what is known at the same popularity, and the share that the first has of it."""
    lines = []
    for metric in METRICS:
        lines.append(f"{metric:<30}{'held out':>24}{'known, as popular':>24}{'share':>24}")
        for name, own in systems.items():
            generator = np.random.default_rng(seed)
            values = np.concatenate([of[metric] for of in own.held.values()])
            held = intervals({metric: values}, generator=generator)[metric]
            known, share = matched(own, metric, generator=generator)
            lines.append(f"{name:<30}" + "".join(f"{cell!s:>24}" for cell in (held, known, share)))
        lines.append("")
    some = next(iter(systems.values()))
    for name, strata in (("held out", some.held), ("known", some.known)):
        sizes = {decile: len(own[METRICS[0]]) for decile, own in strata.items()}
        lines.append(f"requests for items {name}, by decile of popularity: {sizes}, in all {sum(sizes.values())}")
    return "\n".join(lines)


def shelf_table(systems: Mapping[str, FloatArray], *, seed: int) -> str:
    """NDCG@10 of what is held out, ranked among itself."""
    lines = ["ndcg@10 on the shelf of what is held out"]
    for name, values in systems.items():
        cell = intervals({METRICS[0]: values}, generator=np.random.default_rng(seed))[METRICS[0]]
        lines.append(f"{name:<30}{cell!s:>24}")
    return "\n".join(lines)


def _values(asked: PastRequests, lists: RankedLists, *, kept: NDArray[np.bool_]) -> dict[str, FloatArray]:
    places = np.flatnonzero((kept & (asked.relevant != PADDING)).any(axis=1))
    if not len(places):
        return {name: np.zeros(0) for name in METRICS}
    values = query_metrics(ranked=lists.rows[places], relevant=asked.only(kept).relevant, ks=(10, 100))
    return {name: values[name] for name in METRICS}


def _interval(sample_and_resamples: FloatArray) -> Interval:
    low, high = np.quantile(sample_and_resamples[1:], [0.025, 0.975])
    return Interval(value=float(sample_and_resamples[0]), low=float(low), high=float(high))
