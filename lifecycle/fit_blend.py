"""The blend of the towers' score: fitted on the fold, whose validation requests nothing in it has learned of.

Owns which requests decide, and on which items: those that any part of the score puts first, for nothing else will ever
be shown. Over a whole catalogue the mass of items that nobody asks for would decide. What a query had is left out
where it asks: to bring that again is another retriever's part. What a blend is stands in towers/retrievers/blend.py.

Shapes: N requests, R rows of the item table, I items that can be recommended, D and T widths of the learned and the
text embeddings, K parts of the score, P pairs of a request and an item, H items that the query with most had.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.statistics import ItemStatistics
from features.transforms import QueryInputs
from features.vocab import PADDING
from lifecycle.candidates import StageOne
from lifecycle.cuts import Cut
from towers.retrievers.bags import NUM_BAGS, history_bags
from towers.retrievers.blend import POPULARITY, Blend, popularity
from towers.retrievers.fusion_fit import NothingToFit, fit_weights, mean_loss
from towers.retrievers.linear import LinearFit, fit_linear

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

REGULARISATIONS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
HEAD_REGULARISATION = 100.0  # of the linear part that names its first items
HEAD = 200  # items that each part names for a request
MAX_REQUESTS = 2000
MAX_SCORES = 40_000_000  # of all requests and items: some 10 seconds


@dataclass(frozen=True)
class BlendFit:
    """What is blended; conf/blend/*.yaml fills it.

    Attributes:
        width: of the linear embeddings; 0: none.
        popularity: whether an item's popularity as of the last tick counts.
        learned_width: of the learned embeddings only so many first coordinates; None: all.
        new_items: share of known items' NDCG@10 that items without events get (fit_new_items.py); 0: they keep what
            the towers make of their content.
        seed: draws requests where there are too many, and items as if they were new.
    """

    width: int
    popularity: bool
    learned_width: int | None
    new_items: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.new_items <= 1:
            raise ValueError(
                f"blend.new_items must lie between 0 and 1, a share of what known items get; got {self.new_items}"
            )

    def linear(self, dataset: Dataset, protocol: RequestProtocol, cut: Cut) -> LinearFit:
        """Linear embeddings of what a cut knows, of items that can be recommended."""
        places = dataset.events.positives(cut.splits)
        rows, recommendable = dataset.event_rows()[places], protocol.recommendable(dataset, cut.splits)
        return fit_linear(
            query_rows=dataset.events.query_of(places),
            item_rows=np.where(recommendable[rows], rows, PADDING),
            num_rows=len(recommendable),
            width=self.width,
        )

    def fit(
        self, stage_one: StageOne, linear: LinearFit, *, dataset: Dataset, protocol: RequestProtocol
    ) -> tuple[Blend, float]:
        """The weights, and the regularisation of the linear part, under which what was chosen leads.

        Where no request says anything, the learned embeddings alone.

        Args:
            stage_one: of a cut that has not seen its validation requests.
            linear: of the same cut.
            dataset: the log.
            protocol: says what was asked and what may be answered.
        """
        width = stage_one.stage1.item_embeddings.shape[1]
        if self.learned_width is not None and not 0 < self.learned_width <= width:
            raise ValueError(
                f"blend.learned_width must lie between 1 and {width}, the width of the learned embeddings; got "
                f"{self.learned_width}"
            )
        alone = Blend(learned_width=self.learned_width)
        if not self.width and not self.popularity:
            return alone, HEAD_REGULARISATION
        asked = self.asked(stage_one.cut, dataset=dataset, protocol=protocol)
        if not len(asked):
            logger.warning("blend: the learned embeddings stand alone, for no validation request chose anything new")
            return alone, HEAD_REGULARISATION
        parts = self._parts(stage_one, linear, asked=asked, dataset=dataset, protocol=protocol)
        owners, rows = parts.heads()
        relevant = parts.chosen(owners, rows)
        fitted = []
        for regularisation in REGULARISATIONS if self.width else (HEAD_REGULARISATION,):
            scores = parts.scores(owners, rows, regularisation=regularisation)
            if not self.popularity:
                scores[:, parts.popularity_columns] = 0.0  # what scores all alike gets no weight
            try:
                weights = fit_weights(scores, relevant=relevant, owners=owners, negative=True)
            except NothingToFit as error:
                logger.warning("blend: the learned embeddings stand alone (%s)", error)
                return alone, HEAD_REGULARISATION
            loss = mean_loss(scores @ weights, relevant=relevant, owners=owners)
            fitted.append((loss, regularisation, Blend.of_weights(weights, learned_width=self.learned_width)))
        loss, regularisation, blend = min(fitted, key=lambda own: own[0])
        logger.info(
            "blend of %d requests: learned %.3g, text %.3g, bags %s, popularity %s, lambda %g, loss %.4f",
            *(len(parts.asked), blend.learned, blend.text),
            *(" ".join(f"{weight:.3g}" for weight in own) for own in (blend.bags, blend.popularity)),
            *(regularisation, loss),
        )
        return blend, regularisation

    def asked(self, cut: Cut, *, dataset: Dataset, protocol: RequestProtocol) -> PastRequests:
        """Validation requests that decide, of items that their queries had not had."""
        if cut.validation is None:
            raise ValueError(f"the blend is fitted on validation requests, and cut {cut.name} has none")
        recommendable = protocol.recommendable(dataset, cut.splits)
        asked = protocol.looked_for(protocol.asked(dataset, cut.validation), recommendable=recommendable)
        asked = asked.only(~asked.had)
        most = min(MAX_REQUESTS, max(MAX_SCORES // max(int(recommendable.sum()), 1), 1))
        if len(asked) > most:
            asked = asked.take(np.sort(np.random.default_rng(self.seed).permutation(len(asked))[:most]))
        return asked

    def _parts(
        self,
        stage_one: StageOne,
        linear: LinearFit,
        *,
        asked: PastRequests,
        dataset: Dataset,
        protocol: RequestProtocol,
    ) -> "_Parts":
        cut, stage1 = stage_one.cut, stage_one.stage1
        inputs = stage1.query_inputs(asked.states(dataset, length=stage1.spec.stored_history))
        embedded = stage1.embed_alone(inputs, models=stage_one.models)
        learned, text = np.split(embedded, [stage1.item_embeddings.shape[1]], axis=1)
        return _Parts(
            asked=asked,
            inputs=inputs,
            learned=learned[:, : self.learned_width],
            learned_items=stage1.item_embeddings[:, : self.learned_width],
            text=text,
            text_items=stage1.text_embeddings,
            linear=linear,
            statistics=ItemStatistics.at_requests(
                protocol.item_days(dataset, cut.splits),
                requested_at_ms=inputs.requested_at_ms,
                tick_ms=stage1.spec.tick_ms,
            ),
            recommendable=np.flatnonzero(protocol.recommendable(dataset, cut.splits)),
            seen_rows=asked.seen_rows(dataset),
        )


@dataclass(frozen=True, eq=False)
class _Parts:
    """N requests and each part of the score of any item for them.

    Attributes:
        learned: [N, D] query embeddings; learned_items: [R, D].
        text: [N, T] embeddings of what the queries say; text_items: [R, T].
        recommendable: [I] ItemRow.
        seen_rows: [N, H] ItemRow of all that each query had.
    """

    asked: PastRequests
    inputs: QueryInputs
    learned: FloatArray
    learned_items: FloatArray
    text: FloatArray
    text_items: FloatArray
    linear: LinearFit
    statistics: ItemStatistics
    recommendable: IntArray
    seen_rows: IntArray

    def heads(self) -> tuple[IntArray, IntArray]:
        """Request and ItemRow [P] of what any part puts among its first HEAD items, owners ascending."""
        embeddings = self.linear.embeddings(HEAD_REGULARISATION)
        bags, ticks = self._bags(embeddings), self._ticks
        linear, learned, text = (
            items[self.recommendable].T for items in (embeddings, self.learned_items, self.text_items)
        )
        popular = np.moveaxis(popularity(self.statistics.values[:, self.recommendable]), 2, 1)  # [ticks, P, I]
        named = []
        for n in tqdm(range(len(self.asked)), desc="blend: first items", unit="request", disable=None):
            own = [self.learned[n : n + 1] @ learned, bags[n] @ linear, popular[ticks[n]]]
            own += [self.text[n : n + 1] @ text] if self._has_text else []
            scores = np.concatenate(own)  # [K, I]
            scores[:, np.isin(self.recommendable, self.seen_rows[n])] = -np.inf
            size = min(HEAD, scores.shape[1])
            first = np.argpartition(-scores, size - 1, axis=1)[:, :size]
            first = np.unique(first[np.isfinite(np.take_along_axis(scores, first, axis=1))])
            named.append(self.recommendable[first])
        owners = np.repeat(np.arange(len(named)), [len(rows) for rows in named])
        return owners, np.concatenate(named)

    def chosen(self, owners: IntArray, rows: IntArray) -> NDArray[np.bool_]:
        """[P] which of the pairs were chosen."""
        num_rows = len(self.learned_items)
        requests, columns = np.nonzero(self.asked.relevant != PADDING)
        return np.isin(owners * num_rows + rows, requests * num_rows + self.asked.relevant[requests, columns])

    def scores(self, owners: IntArray, rows: IntArray, *, regularisation: float) -> NDArray[np.float64]:
        """[P, K] each part's score of each pair, in the order of a blend's weights."""
        embeddings = self.linear.embeddings(regularisation)
        bags, ticks = self._bags(embeddings), self._ticks
        starts = np.searchsorted(owners, np.arange(len(self.asked) + 1))
        parts = []
        for n, (start, stop) in enumerate(pairwise(starts)):
            own = rows[start:stop]
            popular = popularity(self.statistics.values[ticks[n], own])
            products = (self.learned_items[own] @ self.learned[n])[:, None], embeddings[own] @ bags[n].T
            said = [(self.text_items[own] @ self.text[n])[:, None]] if self._has_text else []
            parts.append(np.concatenate([*products, popular, *said], axis=1))
        return np.concatenate(parts).astype(np.float64)

    def _bags(self, embeddings: FloatArray) -> FloatArray:
        return history_bags(embeddings, seen_rows=self.inputs.seen_rows, seen_age_days=self.inputs.seen_age_days)

    @property
    def popularity_columns(self) -> slice:
        """Of `scores`."""
        return slice(1 + NUM_BAGS, 1 + NUM_BAGS + len(POPULARITY))

    @property
    def _has_text(self) -> bool:
        return bool(self.text.shape[1])

    @property
    def _ticks(self) -> IntArray:
        return self.statistics.ticks(self.inputs.requested_at_ms)
