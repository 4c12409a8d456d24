"""New items in the index: embeddings by their content, and a bias by which they get a fair part of the lists.

Owns which items are new, and the bias. What is known of content is towers/retrievers/content.py's, how the index holds
new items new_items.py's. Content leaves open how popular an item will be, and what is expected of it is what is
expected of a middling one; so ranked, nobody would see it. The bias is a price that is set, not a fact that is
estimated: it shows new items until they get a given share of the NDCG@10 that known ones get.

The share is measured in the order of all retrievers, of which the towers alone know a new item, on validation requests
of the fold: as if a tenth of the known items were new at a time, their embeddings from a map that was fitted without
them.

Shapes: N requests, R rows of the item table, K known items, D and L widths of learned and linear embeddings, C pairs of
a request and a known item that it chose.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.statistics import ItemStatistics
from lifecycle.candidates import StageOne
from towers.retrievers.content import ContentFeatures, ContentMap, ItemContent
from towers.retrievers.new_items import NewItems

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

FOLDS = 10
TOP = 10  # of NDCG@10


@dataclass(frozen=True, eq=False)
class Content:
    """Known and new items of one cut, and the content of both.

    Attributes:
        known: [K] rows that can be recommended and have events; new: those that have none.
        counts: [K] queries that had each known item.
        embeddings: [K, D + L] learned and linear.
        learned_width: D.
        table: of all rows.
        features: of all.
    """

    known: IntArray
    new: IntArray
    counts: NDArray[np.float64]
    embeddings: FloatArray
    learned_width: int
    table: ItemContent
    features: ContentFeatures

    @classmethod
    def of(cls, stage_one: StageOne, *, texts: FloatArray, dataset: Dataset) -> "Content | None":
        """Of a cut; None where nothing that can be recommended is known.

        Args:
            stage_one: of the cut, with its blend.
            texts: [R, E] text embeddings.
            dataset: the log.
        """
        stage1, num_had = stage_one.stage1, dataset.queries_of_items(stage_one.cut.splits)
        known, new = (np.flatnonzero(stage1.recommendable & own) for own in (num_had > 0, num_had == 0))
        if not len(known):
            return None
        table = ItemContent.of(stage1.items, texts=texts)
        learned = stage1.item_embeddings[known, : stage1.blend.learned_width]
        return cls(
            known=known,
            new=new,
            counts=num_had[known].astype(np.float64),
            embeddings=np.concatenate([learned, stage1.linear_embeddings[known]], axis=1),
            learned_width=learned.shape[1],
            table=table,
            features=ContentFeatures.fit(table.take(known)),
        )

    def map(self, kept: NDArray[np.bool_] | None = None) -> ContentMap:
        """The map of all known items, or of those kept [K]."""
        kept = np.ones(len(self.known), dtype=np.bool_) if kept is None else kept
        return ContentMap.fit(
            self.features,
            table=self.table,
            known=self.known[kept],
            weights=self.counts[kept],
            embeddings=self.embeddings[kept],
        )

    def as_new(self, folds: IntArray) -> FloatArray:
        """[K, D + L] of known items by the map of those of other folds [K]."""
        found = np.zeros_like(self.embeddings)
        for fold in np.unique(folds):
            own = folds == fold
            found[own] = self.map(~own).of(self.table.take(self.known[own]))
        return found

    def in_index(self, linear: FloatArray, *, by: ContentMap, bias: float) -> tuple[NewItems, FloatArray]:
        """The new items, and all linear embeddings [R, L] with theirs among them."""
        embeddings = by.of(self.table.take(self.new))
        filled = linear.copy()
        filled[self.new] = embeddings[:, self.learned_width :]
        return NewItems(rows=self.new, learned=embeddings[:, : self.learned_width], bias=bias), filled


def fit_bias(
    content: Content,
    stage_one: StageOne,
    asked: PastRequests,
    *,
    dataset: Dataset,
    protocol: RequestProtocol,
    share: float,
    generator: np.random.Generator,
) -> float:
    """The bias under which new items get `share` of the NDCG@10 that the same ones get as known.

    Args:
        content: of the cut.
        stage_one: of the same cut, with its blend and its fusion.
        asked: N requests that the cut has not seen, of items that their queries had not had.
        dataset: the log.
        protocol: says which counts may be known.
        share: above 0.
        generator: says which items are new together.
    """
    weight, asked = stage_one.stage1.fusion.weights["towers"], asked.only(np.isin(asked.relevant, content.known))
    if not (len(asked) and weight > 0):
        logger.warning("new items get no bias: validation chose no known item, or the towers weigh nothing")
        return 0.0
    folds = generator.permutation(np.arange(len(content.known)) % FOLDS)
    contest = _contest(content, stage_one, asked, dataset=dataset, protocol=protocol, folds=folds)
    most = contest.share(np.inf)
    if not most > 0:
        logger.warning("new items get no bias: no known item that validation chose was among the first %d", TOP)
        return 0.0
    low, high = contest.bounds
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if contest.share(middle) >= min(share, most) else (middle, high)
    high /= weight
    logger.info(
        "new items: %d, bias %.3f for a share of %.2f, %d choices", len(content.new), high, share, len(contest.own)
    )
    return float(high)


@dataclass(frozen=True, eq=False)
class _Contest:
    """Known items that were chosen, as if each were new, against what it would meet.

    Attributes:
        own: [C] fused score as new, without a bias.
        place: [C] how many stand before it as known.
        newer: [C] how many of those that are new with it stand before it.
        others: [C, TOP] best scores of all that stay known.
    """

    own: NDArray[np.float64]
    place: IntArray
    newer: IntArray
    others: NDArray[np.float64]

    def share(self, bias: float) -> float:
        """What new items get with this bias of what known ones get; nan where these get nothing."""
        before = self.newer + (self.others >= (self.own + bias)[:, None]).sum(axis=1)
        known = _gain(self.place)
        return float(_gain(before).sum() / known.sum()) if known.any() else np.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """Biases below and above which nothing changes any more."""
        gaps = (self.others - self.own[:, None])[np.isfinite(self.others)]
        return float(gaps.min(initial=0.0)) - 1.0, float(gaps.max(initial=0.0)) + 1.0


def _contest(
    content: Content,
    stage_one: StageOne,
    asked: PastRequests,
    *,
    dataset: Dataset,
    protocol: RequestProtocol,
    folds: IntArray,
) -> _Contest:
    stage1, known = stage_one.stage1, content.known
    inputs = stage1.query_inputs(asked.states(dataset, length=stage1.spec.stored_history))
    queries = stage1.embed(inputs, models=stage_one.models)
    days = protocol.item_days(dataset, stage_one.cut.splits)
    statistics = ItemStatistics.at_requests(days, requested_at_ms=inputs.requested_at_ms, tick_ms=stage1.spec.tick_ms)
    ticks, seen, as_new = statistics.ticks(inputs.requested_at_ms), asked.seen_rows(dataset), content.as_new(folds)
    found = []
    for tick in np.unique(ticks):
        as_of = stage1.as_of(statistics.at(int(tick)))
        for n in np.flatnonzero(ticks == tick):
            scores = np.stack(
                [
                    as_of.fused_scores(inputs.take(slice(n, n + 1)), queries[n : n + 1], known)[0],
                    stage1.fusion.weights["towers"] * (as_new @ queries[n, :-1]).astype(np.float64),
                ]
            )
            scores[:, np.isin(known, seen[n])] = -np.inf
            for place in np.flatnonzero(np.isin(known, asked.relevant[n])):
                with_it = folds == folds[place]
                others = np.r_[scores[0, ~with_it], np.full(TOP, -np.inf)]
                found.append(
                    (
                        scores[1, place],
                        (scores[0] > scores[0, place]).sum(),
                        (scores[1, with_it] > scores[1, place]).sum(),
                        -np.sort(-others)[:TOP],
                    )
                )
    own, before, newer, others = zip(*found, strict=True)
    return _Contest(
        own=np.array(own, dtype=np.float64),
        place=np.array(before, dtype=np.int64),
        newer=np.array(newer, dtype=np.int64),
        others=np.array(others, dtype=np.float64),
    )


def _gain(before: IntArray) -> NDArray[np.float64]:
    """NDCG@10 of one relevant item behind so many others."""
    return np.where(before < TOP, 1.0 / np.log2(2.0 + before), 0.0)
