"""Lists of the systems without a trained tower: popularity, item-kNN, EASE, transitions.

Owns fitting each on what REFIT knows and scoring the whole catalogue. Each is used at its best: the weights and
settings were chosen on validation (docs/benchmarks/2026-11-22-quality.md).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evaluation.lists import RankedLists, top_items
from features.dataset import Dataset
from features.spec import DAY_MS
from features.transforms import QueryInputs
from features.vocab import FIRST
from lifecycle.cuts import Cut
from towers.retrievers.ease import fit_ease
from towers.retrievers.fusion import sum_standardised
from towers.retrievers.item_knn import fit_item_knn
from towers.retrievers.popularity import popularity_scores, recent_scores
from towers.retrievers.transitions import fit_transitions
from towers.retrievers.weights import ease_weights, item_knn_weights, transition_weights, uniform_weights

FloatArray = NDArray[np.float32]


def baseline_lists(
    dataset: Dataset, cut: Cut, inputs: QueryInputs, *, num_rows: int, k: int
) -> Iterator[tuple[str, RankedLists]]:
    """Name and top k of each baseline for N queries, own histories excluded, items that the cut knows alone."""
    places = dataset.events.places(cut.splits)
    queries, rows = dataset.events.query_of(places), dataset.event_rows()[places]
    counts = np.bincount(rows, minlength=num_rows)
    allowed = counts > 0
    allowed[:FIRST] = False
    for name, scores in _scores(dataset, cut, inputs, queries=queries, rows=rows, counts=counts, allowed=allowed):
        yield name, top_items(scores, k=k, allowed=allowed, excluded=inputs.seen_rows)


def _scores(
    dataset: Dataset,
    cut: Cut,
    inputs: QueryInputs,
    *,
    queries: NDArray[np.int64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    allowed: NDArray[np.bool_],
) -> Iterator[tuple[str, FloatArray]]:
    num_rows, newest, whole = len(counts), inputs.history_rows, inputs.seen_rows
    yield "popularity", popularity_scores(counts, num_queries=len(newest))
    days = dataset.days(cut.splits)
    yield (
        "recent_popularity",
        recent_scores(
            item_rows=days.rows,
            days=days.days,
            num_events=days.counts.astype(np.int64),
            tick_days=inputs.requested_at_ms // DAY_MS,
            num_rows=num_rows,
        ),
    )
    item_knn = fit_item_knn(query_rows=queries, item_rows=rows, num_rows=num_rows)
    yield "item_knn", item_knn.score_all(history_rows=newest, weights=item_knn_weights(newest))
    published = fit_ease(query_rows=queries, item_rows=rows, num_rows=num_rows, regularisation=100.0)
    yield "ease", published.score_all(history_rows=whole, weights=uniform_weights(whole))
    ease = fit_ease(query_rows=queries, item_rows=rows, num_rows=num_rows)
    recent_ease = ease.score_all(history_rows=newest, weights=ease_weights(newest))
    yield "ease_recency", recent_ease
    transitions = fit_transitions(query_rows=queries, item_rows=rows, num_rows=num_rows).score_all(
        history_rows=newest, weights=transition_weights(newest)
    )
    yield "transitions", transitions
    yield "transitions_ease", sum_standardised([transitions, recent_ease], allowed=allowed)
