"""How much each event of a history counts when its neighbours are summed.

Owns the decay by place in the history and its standard settings for each retriever. numpy only: it runs while serving.
The defaults were chosen on the validation events of MovieLens-100K (leave one out).
"""

# Shapes: N queries, L length of the histories (oldest first, left-padded with 0).

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.vocab import FIRST

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


def recency_weights(history_rows: IntArray, *, exponent: float, num_last: int | None = None) -> FloatArray:
    """(1 + age) ** -exponent, where the newest event has age 0; exponent 0 counts all alike.

    An item that stands several times counts once, at its newest place. Padding, unknown items and all but the last
    `num_last` events weigh 0.

    Args:
        history_rows: [N, L] item rows.
        exponent: speed of the decay, >= 0.
        num_last: events that count at all; None = the whole history.

    Returns:
        [N, L] weights.
    """
    ages = np.arange(history_rows.shape[1] - 1, -1, -1)
    decay = (1.0 + ages) ** -exponent  # [L]
    if num_last is not None:
        decay[ages >= num_last] = 0.0
    counted = (history_rows >= FIRST) & ~_seen_again(history_rows)
    return (counted * decay).astype(np.float32)


def _seen_again(history_rows: IntArray) -> NDArray[np.bool_]:
    """Where the same item stands again at a newer place, [N, L]."""
    order = np.argsort(history_rows, axis=1, kind="stable")
    in_order = np.take_along_axis(history_rows, order, axis=1)
    again = np.zeros(history_rows.shape, dtype=np.bool_)
    again[:, :-1] = in_order[:, 1:] == in_order[:, :-1]
    result = np.empty_like(again)
    np.put_along_axis(result, order, again, axis=1)
    return result


def uniform_weights(history_rows: IntArray) -> FloatArray:
    """Every item of the history alike, as item-kNN and EASE are published: [N, L]."""
    return recency_weights(history_rows, exponent=0.0)


def transition_weights(history_rows: IntArray, *, exponent: float = 0.5, num_last: int = 10) -> FloatArray:
    """The last events, for a table of transitions.py: [N, L]."""
    return recency_weights(history_rows, exponent=exponent, num_last=num_last)


def ease_weights(history_rows: IntArray, *, exponent: float = 0.5, num_last: int = 50) -> FloatArray:
    """Recent events first, for the weights of ease.py: [N, L]."""
    return recency_weights(history_rows, exponent=exponent, num_last=num_last)


def item_knn_weights(history_rows: IntArray, *, exponent: float = 1.0, num_last: int = 50) -> FloatArray:
    """Recent events first, for a table of item_knn.py: [N, L]."""
    return recency_weights(history_rows, exponent=exponent, num_last=num_last)
