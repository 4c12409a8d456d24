"""Lists of the systems without a trained tower: popularity, item-kNN, EASE, iALS, transitions, repeats, query-kNN.

Owns fitting each on what a cut knows and scoring the whole catalogue. Each is used at its best: weights and settings
were chosen on validation events (docs/benchmarks/2026-11-22-quality.md; those of EASE and iALS are chosen anew).
"""

# Shapes: N requests, B of them at once, E events that the cut knows, V rows of the item table.

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.lists import RankedLists, top_items
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.spec import DAY_MS
from features.transforms import QueryInputs
from features.vocab import PADDING
from lifecycle.chosen import IALS_SEED, chosen_ials, chosen_regularisation
from lifecycle.cuts import Cut
from towers.retrievers.ease import Ease, fit_ease
from towers.retrievers.fusion import sum_standardised
from towers.retrievers.ials import Ials, fit_ials
from towers.retrievers.item_knn import fit_item_knn
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.popularity import recent_counts, recent_scores
from towers.retrievers.query_knn import QueryKnn, fit_query_knn
from towers.retrievers.repeats import repeat_scores
from towers.retrievers.transitions import fit_transitions
from towers.retrievers.weights import ease_weights, item_knn_weights, transition_weights, uniform_weights

FloatArray = NDArray[np.float32]

# Requests scored at once: their scores of 100,000 items take 100 MB a baseline.
BATCH_SIZE = 256
HALF_LIFE_DAYS = 120.0
# What knows nothing but what a query had has nothing to say where that is left out.
ONLY_REPEATS = ("repeat_count", "decayed_repeats", "decayed_repeats_query_knn")


@dataclass(frozen=True)
class Baselines:
    """All of them, fitted on the events that a cut knows.

    Attributes:
        dataset: the log, of which each request sees what was known of its query.
        recommendable: [V] items that lists are made of; the others are not learnt from either.
        query_rows: [E] query of each event; a request counts those before its day.
        item_rows: [E] its item.
        days: [E] its day.
        repeats: whether what queries had before may be recommended again.
    """

    dataset: Dataset
    recommendable: NDArray[np.bool_]
    query_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    days: NDArray[np.int64]
    repeats: bool
    item_knn: NeighbourTable
    transitions: NeighbourTable
    published_ease: Ease
    ease: Ease
    ials: Ials
    query_knn: QueryKnn

    @cached_property
    def popularity(self) -> FloatArray:
        """[V] queries that had each item."""
        after_all = int(self.days.max(initial=0)) + 1
        counts = recent_counts(
            query_rows=self.query_rows,
            item_rows=self.item_rows,
            days=self.days,
            tick_day=after_all,
            window_days=None,
            num_rows=len(self.recommendable),
        )
        return counts.astype(np.float32)

    @classmethod
    def fit(cls, dataset: Dataset, protocol: RequestProtocol, cut: Cut) -> Self:
        """Fit on a cut."""
        recommendable = protocol.recommendable(dataset, cut.splits)
        places, num_rows = dataset.events.positives(cut.splits), len(recommendable)
        queries, rows = dataset.events.query_of(places), dataset.event_rows()[places]
        rows = np.where(recommendable[rows], rows, PADDING)
        weight, regularisation = chosen_ials(dataset, protocol)
        return cls(
            dataset=dataset,
            recommendable=recommendable,
            query_rows=queries,
            item_rows=rows,
            days=dataset.events.at_ms[places] // DAY_MS,
            repeats=protocol.repeats,
            item_knn=fit_item_knn(query_rows=queries, item_rows=rows, num_rows=num_rows),
            transitions=fit_transitions(query_rows=queries, item_rows=rows, num_rows=num_rows),
            published_ease=fit_ease(
                query_rows=queries,
                item_rows=rows,
                num_rows=num_rows,
                regularisation=chosen_regularisation(dataset, protocol),
            ),
            ease=fit_ease(query_rows=queries, item_rows=rows, num_rows=num_rows),
            ials=fit_ials(
                query_rows=queries,
                item_rows=rows,
                num_rows=num_rows,
                weight=weight,
                regularisation=regularisation,
                generator=np.random.default_rng(IALS_SEED),
            ),
            query_knn=fit_query_knn(query_rows=queries, item_rows=rows, num_rows=num_rows),
        )

    def lists(
        self, asked: PastRequests, inputs: QueryInputs, *, exclude_seen: Sequence[bool], k: int
    ) -> dict[bool, dict[str, RankedLists]]:
        """Top k of each baseline for N requests, without what their queries had or with it: [exclude_seen][name].

        Args:
            asked: N requests.
            inputs: of their queries.
            exclude_seen: which of both, or both.
            k: length of the lists.
        """
        seen = asked.seen_rows(self.dataset)
        parts: dict[tuple[bool, str], list[RankedLists]] = defaultdict(list)
        for start in tqdm(range(0, len(asked), BATCH_SIZE), desc="baselines", unit="batch"):
            batch = slice(start, start + BATCH_SIZE)
            for name, scores in self._scores(asked.take(batch), inputs.take(batch), seen[batch]):
                for excluding in exclude_seen:
                    if not (excluding and name in ONLY_REPEATS):
                        excluded = seen[batch] if excluding else None
                        found = top_items(scores, k=k, allowed=self.recommendable, excluded=excluded)
                        parts[excluding, name].append(found)
        lists: dict[bool, dict[str, RankedLists]] = {excluding: {} for excluding in exclude_seen}
        for (excluding, name), own in parts.items():
            lists[excluding][name] = RankedLists(
                rows=np.concatenate([one.rows for one in own]), scores=np.concatenate([one.scores for one in own])
            )
        return lists

    def _scores(
        self, asked: PastRequests, inputs: QueryInputs, seen: NDArray[np.int64]
    ) -> Iterator[tuple[str, FloatArray]]:
        """Name and scores [B, V] of each."""
        newest, allowed = inputs.history_rows, self.recommendable
        yield "popularity", np.broadcast_to(self.popularity, (len(asked), len(allowed)))
        yield "recent_popularity", self._recent(asked, window_days=30)
        last_week = self._recent(asked, window_days=7)
        yield "popularity_7d", last_week
        yield "item_knn", self.item_knn.score_all(history_rows=newest, weights=item_knn_weights(newest))
        published = self.published_ease.score_all(history_rows=seen, weights=uniform_weights(seen))
        yield "ease", published
        recent_ease = self.ease.score_all(history_rows=newest, weights=ease_weights(newest))
        yield "ease_recency", recent_ease
        yield "ials", self.ials.score_all(seen_rows=seen)
        transitions = self.transitions.score_all(history_rows=newest, weights=transition_weights(newest))
        yield "transitions", transitions
        yield "transitions_ease", sum_standardised([transitions, recent_ease], allowed=allowed)
        # By logarithm, for the few items that everybody has would drown what the query is like.
        yield "ease_popularity_7d", sum_standardised([published, np.log1p(last_week)], allowed=allowed)
        query_knn = self.query_knn.score_all(query_rows=asked.queries, seen_rows=seen)
        yield "query_knn", query_knn
        if self.repeats:
            yield "repeat_count", self._repeats(asked, half_life_days=None)
            decayed = self._repeats(asked, half_life_days=HALF_LIFE_DAYS)
            yield "decayed_repeats", decayed
            yield "decayed_repeats_query_knn", sum_standardised([decayed, query_knn], allowed=allowed)

    def _recent(self, asked: PastRequests, *, window_days: int) -> FloatArray:
        return recent_scores(
            query_rows=self.query_rows,
            item_rows=self.item_rows,
            days=self.days,
            tick_days=asked.requested_at_ms // DAY_MS,
            window_days=window_days,
            num_rows=len(self.recommendable),
        )

    def _repeats(self, asked: PastRequests, *, half_life_days: float | None) -> FloatArray:
        owners, places = asked.known_events(self.dataset)
        positive = self.dataset.events.relevance[places] > 0
        owners, places = owners[positive], places[positive]
        return repeat_scores(
            owners=owners,
            item_rows=self.dataset.event_rows()[places],
            age_days=(asked.requested_at_ms[owners] - self.dataset.events.at_ms[places]) / DAY_MS,
            num_queries=len(asked),
            num_rows=len(self.recommendable),
            half_life_days=half_life_days,
        )
