"""From a score for every item to ranked lists: the full ranking that the protocols ask for.

Owns the order (highest score first, the lower row first among equals) and what is left out of it. Scores nothing.
"""

# Shapes: Q queries, V rows of the item table, E excluded items of a query (padded), K length of the lists.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidLists
from evaluation.metrics import PADDING


@dataclass(frozen=True, eq=False)
class RankedLists:
    """Best first; row 0 with score -inf fills a list that ran out of items."""

    rows: NDArray[np.int64]  # [Q, K]
    scores: NDArray[np.float32]  # [Q, K]


def top_items(
    scores: NDArray[np.floating[Any]],
    *,
    k: int,
    allowed: NDArray[np.bool_],
    excluded: NDArray[np.integer[Any]] | None = None,
) -> RankedLists:
    """Rank all allowed items by score and keep the first k.

    Args:
        scores: [Q, V]; -inf leaves an item out.
        k: length of the lists.
        allowed: [V] items that may be recommended at all (padding, unknown and unseen items: False).
        excluded: [Q, E] rows never to return for that query (its own history), padded with 0.

    Raises:
        InvalidLists: shapes differ, or a score is nan.
    """
    num_queries, num_rows = scores.shape
    if k < 1 or allowed.shape != (num_rows,) or (excluded is not None and len(excluded) != num_queries):
        raise InvalidLists(
            f"expected k >= 1, allowed [{num_rows}] and excluded [{num_queries}, E]; got k = {k}, "
            f"allowed {allowed.shape}, excluded {None if excluded is None else excluded.shape}"
        )
    rows = np.zeros((num_queries, k), dtype=np.int64)
    kept = np.full((num_queries, k), -np.inf, dtype=np.float32)
    # What may not be recommended is left out first: it can be most of a catalogue.
    choice = np.flatnonzero(allowed)
    choice = choice[choice != PADDING]
    place_of = np.full(num_rows, len(choice))  # one place more for whatever is no choice
    place_of[choice] = np.arange(len(choice))
    own = np.empty(len(choice) + 1, dtype=scores.dtype)
    for query in range(num_queries):
        own[:-1] = scores[query, choice]
        if np.isnan(own[:-1]).any():
            raise InvalidLists(f"the scores of query {query} hold nan; a nan has no place in an order")
        if excluded is not None:
            own[place_of[excluded[query]]] = -np.inf
        best = _best(own[:-1], k)
        rows[query, : len(best)] = choice[best]
        kept[query, : len(best)] = own[best]
    return RankedLists(rows=rows, scores=kept)


def _best(own: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Rows of the k highest finite scores, the lower row first among equals."""
    last = -np.inf if k >= len(own) else np.partition(own, -k)[-k]
    candidates = np.flatnonzero((own >= last) & (own > -np.inf))
    return candidates[np.argsort(-own[candidates], kind="stable")[:k]]
