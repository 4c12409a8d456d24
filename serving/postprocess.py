"""From scored candidates to the list that is shown.

Owns the final order. Shapes: N queries, C candidates, of which the first T were ranked.
"""

import numpy as np
from numpy.typing import NDArray

from features.vocab import PADDING


def final_order(
    candidate_rows: NDArray[np.int64], ranker_scores: NDArray[np.float32], *, k: int
) -> list[NDArray[np.int64]]:
    """Places of the k best candidates of each query, best first.

    Candidates that the ranker saw come first, by its score; behind them the others in the order of retrieval. Equal
    scores keep the order of retrieval. A score that is not a number counts as the worst.

    Args:
        candidate_rows: [N, C] ItemRow in the order of retrieval; PADDING where there are fewer.
        ranker_scores: [N, T] scores of the first T candidates.
        k: list length; shorter where there are fewer candidates.
    """
    num_ranked = ranker_scores.shape[1]
    orders = []
    for rows, scores in zip(candidate_rows, ranker_scores, strict=True):
        sortable = np.where(np.isnan(scores), -np.inf, scores)
        order = np.concatenate([np.argsort(-sortable, kind="stable"), np.arange(num_ranked, len(rows))])
        orders.append(order[rows[order] != PADDING][:k])
    return orders
