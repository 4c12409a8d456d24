"""A whole history as a few sums of item embeddings, for the linear half of the towers (linear.py).

Owns how much each item of a history counts in each sum: all alike, the newest events first, the newest months first.
What each sum is worth is fitted (blend.py). numpy only: it runs while serving.
"""

# Shapes: N queries, H items of the longest history, newest first, R rows of the item table, D width, B bags.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.vocab import FIRST

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]

NUM_LAST = 50
HALF_LIFE_DAYS = 120.0
NUM_BAGS = 3


def history_bags(embeddings: FloatArray, *, seen_rows: IntArray, seen_age_days: FloatArray) -> FloatArray:
    """Weighted sums of the embeddings of what each query had, [N, B, D]; zero for a query without history.

    An item that was had several times counts once, at its newest place among known items. A sum is divided by the root
    of its weights: a longer history is surer of itself, but not in proportion.

    Args:
        embeddings: [R, D].
        seen_rows: [N, H] item rows, newest first, 0 = padding.
        seen_age_days: [N, H] before the request.
    """
    bags = np.zeros((len(seen_rows), NUM_BAGS, embeddings.shape[1]), dtype=np.float32)
    for n, (rows, ages) in enumerate(zip(seen_rows, seen_age_days, strict=True)):
        known = rows >= FIRST
        distinct, newest = np.unique(rows[known], return_index=True)  # of a repeated row the first place
        if len(distinct) == 0:
            continue
        weights = np.stack(
            [
                np.ones(len(newest)),
                np.where(newest < NUM_LAST, (1.0 + newest) ** -0.5, 0.0),
                0.5 ** (ages[known][newest] / HALF_LIFE_DAYS),
            ]
        )  # [B, distinct items]
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)  # an old history has nothing new
        bags[n] = (weights / np.sqrt(total)).astype(np.float32) @ embeddings[distinct]
    return bags
