"""Ranking metrics over full ranked lists, one value per query.

Owns the arithmetic. Knows nothing of models, splits or means: averaging and intervals are significance.py's.
Use: `hits = gains(ranked=..., relevant=...)` once, then any metric at any k <= K from the hits.
"""

# Shapes: Q queries, K length of the ranked lists, R relevant items of the query that has most.

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidLists

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]
Relevant = Sequence[IntArray] | IntArray

PADDING = 0


def _flatten(relevant: Relevant) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, item) of every relevant item, padding left out."""
    if isinstance(relevant, np.ndarray):
        if relevant.ndim != 2:
            raise InvalidLists(
                f"relevant has shape {relevant.shape}; expected a list of arrays or [Q, R] padded with 0"
            )
        queries, places = np.nonzero(relevant != PADDING)
        return queries.astype(np.int64), relevant[queries, places].astype(np.int64)
    lengths = np.array([len(items) for items in relevant], dtype=np.int64)
    queries = np.repeat(np.arange(len(relevant), dtype=np.int64), lengths)
    items = np.concatenate([np.asarray(items, dtype=np.int64) for items in relevant] or [np.zeros(0, np.int64)])
    return queries[items != PADDING], items[items != PADDING]


def count_relevant(relevant: Relevant) -> NDArray[np.int64]:
    """Relevant items of each query, [Q]; the ideal ranking and recall divide by it."""
    queries, _ = _flatten(relevant)
    return np.bincount(queries, minlength=len(relevant)).astype(np.int64)


def gains(*, ranked: IntArray, relevant: Relevant, grades: NDArray[np.floating[Any]] | None = None) -> FloatArray:
    """The grade of the ranked item to its query, 0 where it is not relevant: [Q, K].

    Args:
        ranked: [Q, K] item rows, best first; 0 = no result at this rank.
        relevant: Q arrays of item rows, or [Q, R] padded with 0. An item no system can return (never seen in
            training) belongs here too: it counts as a miss.
        grades: [Q, R] above 0 for each item of `relevant`, which is then [Q, R]; None: all are 1.

    Raises:
        InvalidLists: shapes differ, a row is negative, an item stands twice in one list, or a grade is not above 0.
    """
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or len(ranked) != len(relevant):
        raise InvalidLists(f"ranked has shape {ranked.shape}; expected [Q, K] with Q = {len(relevant)}, as in relevant")
    queries, items = _flatten(relevant)
    if min(ranked.min(initial=0), items.min(initial=0)) < 0:
        raise InvalidLists("item rows must be 0 (padding) or above; got a negative one")
    _refuse_repeats(ranked)
    span = int(max(ranked.max(initial=0), items.max(initial=0))) + 1
    # One number a (query, item) pair, so that membership is one sorted look-up for all queries.
    relevant_keys = queries * span + items
    if len(np.unique(relevant_keys)) != len(relevant_keys):
        raise InvalidLists("a query names the same relevant item twice; pass each item once")
    ranked_keys = np.arange(len(ranked), dtype=np.int64)[:, None] * span + ranked  # [Q, K]
    hits: NDArray[np.bool_] = np.isin(ranked_keys, relevant_keys) & (ranked != PADDING)
    if grades is None:
        return hits.astype(np.float64)
    order = np.argsort(relevant_keys)
    found = order[np.searchsorted(relevant_keys[order], ranked_keys[hits])]
    graded = np.zeros(ranked.shape, dtype=np.float64)
    graded[hits] = _flat_grades(relevant, grades)[found]
    return graded


def _flat_grades(relevant: Relevant, grades: NDArray[np.floating[Any]]) -> FloatArray:
    """Grade of every relevant item, in the order of `_flatten`."""
    if not isinstance(relevant, np.ndarray) or relevant.shape != grades.shape:
        raise InvalidLists(f"grades has shape {grades.shape}; expected that of relevant, an array [Q, R]")
    flat: FloatArray = grades[relevant != PADDING].astype(np.float64)
    if not (flat > 0).all() or not np.isfinite(flat).all():
        raise InvalidLists("the grade of a relevant item must be above 0 and finite; leave out what is not relevant")
    return flat


def _refuse_repeats(ranked: IntArray) -> None:
    in_order = np.sort(ranked, axis=1)
    repeats = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] != PADDING)
    if repeats.any():
        query, place = np.argwhere(repeats)[0]
        raise InvalidLists(
            f"item row {in_order[query, place + 1]} stands twice in the list of query {query}; "
            "a repeated item would be counted twice, so remove repeats before evaluating"
        )


def _check(hits: FloatArray, num_relevant: IntArray, k: int) -> None:
    if not 1 <= k <= hits.shape[1]:
        raise InvalidLists(
            f"k = {k}, but the lists hold {hits.shape[1]}; rank at least k items or pad the lists with 0"
        )
    if num_relevant.shape != hits.shape[:1]:
        raise InvalidLists(f"num_relevant has shape {num_relevant.shape}; expected [{hits.shape[0]}]")
    if (num_relevant < 1).any():
        query = int(np.argmax(num_relevant < 1))
        raise InvalidLists(f"query {query} has no relevant item, so no metric is defined; leave it out and say so")


def ndcg(
    hits: FloatArray, *, num_relevant: IntArray, k: int, grades: NDArray[np.floating[Any]] | None = None
) -> FloatArray:
    """Discounted gain of the first k over that of the best list possible, [Q] in [0, 1].

    The best list has min(k, num_relevant) hits at its top or, with grades [Q, R], the highest grades first. A grade is
    its own gain, as trec_eval and BEIR have it.
    """
    _check(hits, num_relevant, k)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))  # [k]
    if grades is None:
        ideal = np.cumsum(discounts)[np.minimum(num_relevant, k) - 1]  # [Q]
    else:
        best = -np.sort(-grades.astype(np.float64), axis=1)[:, :k]
        ideal = best @ discounts[: best.shape[1]]
    # Sums of the same terms in another order may differ in the last bit.
    return np.asarray(np.minimum(hits[:, :k] @ discounts / ideal, 1.0))


def recall(hits: FloatArray, *, num_relevant: IntArray, k: int) -> FloatArray:
    """Share of a query's relevant items that stand in the first k, [Q] in [0, 1]."""
    _check(hits, num_relevant, k)
    return np.asarray((hits[:, :k] > 0).sum(axis=1) / num_relevant)


def mrr(hits: FloatArray, *, num_relevant: IntArray, k: int) -> FloatArray:
    """1 / rank of the first relevant item within the first k, 0 without one, [Q]."""
    _check(hits, num_relevant, k)
    # 1 / rank falls with the rank, so the largest is that of the first hit.
    return np.asarray(((hits[:, :k] > 0) / np.arange(1, k + 1)).max(axis=1))


def hit_rate(hits: FloatArray, *, num_relevant: IntArray, k: int) -> FloatArray:
    """1 if any relevant item stands in the first k, else 0, [Q]."""
    _check(hits, num_relevant, k)
    return np.asarray((hits[:, :k] > 0).max(axis=1).astype(np.float64))
