"""Several retrievers' scores as one, without training: the baseline that a learned merge has to beat.

Owns the scale on which scores may be added. numpy only.
"""

# Shapes: N queries, V rows of the item table.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def sum_standardised(scores: Sequence[FloatArray], *, allowed: NDArray[np.bool_]) -> FloatArray:
    """Sum of the scores after bringing each to mean 0 and deviation 1 over a query's allowed items: [N, V].

    A retriever that scores all items of a query alike adds nothing there.

    Args:
        scores: one finite [N, V] a retriever.
        allowed: [V] items that may be recommended; the others get 0.
    """
    total = np.zeros(scores[0].shape, dtype=np.float32)
    for one in scores:
        own = one[:, allowed]
        centred = own - own.mean(axis=1, keepdims=True)
        # Rounding leaves equal scores a tiny deviation, so equality is asked of the scores themselves.
        differ = own.max(axis=1, keepdims=True) > own.min(axis=1, keepdims=True)
        total[:, allowed] += np.divide(centred, own.std(axis=1, keepdims=True), out=np.zeros_like(own), where=differ)
    return total
