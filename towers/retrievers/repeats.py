"""Repeats: what a query had before, the more often and the more recently the better.

Owns the decay. Who does not beat it where people buy the same again has no recommender. numpy only.
"""

# Shapes: N queries, T events known to all of them together, H events of one query, V rows of the item table.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.vocab import FIRST
from towers.retrievers.sparse import SparseScores

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


def repeats(seen_rows: IntArray, age_days: NDArray[np.floating[Any]], *, half_life_days: float | None) -> SparseScores:
    """ln(1 + how often) one query had each item; an event counts half after each half-life.

    The logarithm is what a sum with other retrievers' scores wants: the tenth time says less than the second.

    Args:
        seen_rows: [H] the query's events.
        age_days: [H] before the request.
        half_life_days: None counts all events alike.
    """
    known = seen_rows >= FIRST
    ages = age_days[known].astype(np.float64)
    counts = SparseScores.summed(
        seen_rows[known], np.ones(len(ages)) if half_life_days is None else 0.5 ** (ages / half_life_days)
    )
    return SparseScores(rows=counts.rows, scores=np.log1p(counts.scores))


def repeat_scores(
    *,
    owners: IntArray,
    item_rows: IntArray,
    age_days: NDArray[np.floating[Any]],
    num_queries: int,
    num_rows: int,
    half_life_days: float | None = None,
) -> FloatArray:
    """How often each query had each item, [N, V]; an event counts half after each half-life.

    Args:
        owners: [T] which query each event belongs to.
        item_rows: [T] item rows; padding and unknown are left out.
        age_days: [T] before the request.
        num_queries: N.
        num_rows: V.
        half_life_days: None counts all events alike.

    Raises:
        ValueError: lengths differ, or the half-life is not above 0.
    """
    if not owners.shape == item_rows.shape == age_days.shape:
        raise ValueError(
            f"expected equally long owners, rows and ages; got {owners.shape}, {item_rows.shape}, {age_days.shape}"
        )
    if half_life_days is not None and half_life_days <= 0:
        raise ValueError(f"half_life_days must be above 0, or None for no decay; got {half_life_days}")
    counted = np.ones(len(owners)) if half_life_days is None else 0.5 ** (age_days / half_life_days)
    known = item_rows >= FIRST
    places = owners[known] * num_rows + item_rows[known]
    scores = np.bincount(places, weights=counted[known], minlength=num_queries * num_rows)
    return scores.reshape(num_queries, num_rows).astype(np.float32)
