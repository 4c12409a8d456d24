"""What a system shows, whoever wanted it: how much of the catalogue, and how much that few know.

Owns the arithmetic. A system can be right by showing everybody the same ten items; these say so.
"""

# Shapes: Q queries, K length of the ranked lists, V rows of the item table.

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidLists
from evaluation.metrics import PADDING, FloatArray, IntArray


def coverage(ranked: IntArray, *, allowed: NDArray[np.bool_], k: int) -> float:
    """Share of the allowed items that stand in anyone's first k.

    Args:
        ranked: [Q, K] item rows, best first; 0 = no result.
        allowed: [V] items that may be recommended at all.
        k: at most K.

    Raises:
        InvalidLists: the lists are shorter than k, hold what is not allowed, or nothing is allowed.
    """
    shown = np.unique(_first(ranked, k))
    shown = shown[shown != PADDING]
    others = int((~allowed[shown]).sum())
    if others or not allowed.any():
        raise InvalidLists(
            f"expected lists of the {allowed.sum()} items that are allowed; {others} others stand in them"
        )
    return float(len(shown) / allowed.sum())


def novelty(ranked: IntArray, *, num_had: NDArray[np.integer[Any]], num_queries: int, k: int) -> FloatArray:
    """Mean self-information of the first k in bits, -log2 of the share of queries that had an item: [Q].

    An item that nobody had tells as much as one that a single query had. A list without any item is nan.

    Args:
        ranked: [Q, K] item rows, best first; 0 = no result.
        num_had: [V] queries that had each item.
        num_queries: of which these are some.
        k: at most K.

    Source: Zhou et al., PNAS 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems".
    """
    bits = -np.log2(np.maximum(num_had, 1) / num_queries)
    first = _first(ranked, k)
    is_shown = first != PADDING
    totals = np.where(is_shown, bits[first], 0.0).sum(axis=1)
    counts = is_shown.sum(axis=1)
    means: FloatArray = np.divide(totals, counts, out=np.full(len(first), np.nan), where=counts > 0)
    return means


def variety(
    ranked: IntArray,
    *,
    allowed: NDArray[np.bool_],
    num_had: NDArray[np.integer[Any]],
    num_queries: int,
    ks: Sequence[int],
) -> Mapping[str, float]:
    """Both at every k, novelty as the mean over the queries that were shown anything: {"coverage@10": ..., ...}."""
    values = {}
    for k in ks:
        values[f"coverage@{k}"] = coverage(ranked, allowed=allowed, k=k)
        own = novelty(ranked, num_had=num_had, num_queries=num_queries, k=k)
        values[f"novelty@{k}"] = float(own[~np.isnan(own)].mean()) if not np.isnan(own).all() else 0.0
    return values


def _first(ranked: IntArray, k: int) -> IntArray:
    if ranked.ndim != 2 or not 1 <= k <= ranked.shape[1]:
        raise InvalidLists(f"expected lists [Q, K] with K >= k; got shape {ranked.shape} and k = {k}")
    return ranked[:, :k]
