"""Dense features of a query and a candidate: what the ranker reads besides text.

Owns their arithmetic and their names in stacking order. Which raw value becomes which row is transforms.py's business.

Shapes: N queries, L history length, H events of the longest history, C candidates a query, R rows of the item table, K
scores of a candidate, Ci and Fi item categories and numbers, M values of a many-valued category.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.context import CONTEXT, MAX_IDLE_DAYS
from features.statistics import STATISTICS, ItemStatistics
from features.vocab import FIRST, PADDING, UNKNOWN

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

SHORT_HISTORY = 5
NOT_BROUGHT = 1000  # rank of what a retriever did not bring; no rank counts as more


def ranker_feature_names(
    *, retrievers: Sequence[str], item_categories: Sequence[str], item_numbers: Sequence[str]
) -> tuple[str, ...]:
    """Names of the dense features, in the order in which `transforms.ranker_inputs` stacks them."""
    return (
        *(f"{name}_{part}" for name in retrievers for part in ("score", "z_score", "log_rank")),
        *(f"item_{name}" for name in STATISTICS),
        *(f"query_{name}" for name in CONTEXT),
        *(f"{name}_affinity_{span}" for name in item_categories for span in ("long", "short")),
        *(f"{name}_difference" for name in item_numbers),
        *("repeat_count", "last_seen_days"),
    )


def retriever_features(scores: FloatArray, ranks: IntArray, present: NDArray[np.bool_]) -> FloatArray:
    """[N, C, 3K]: score, its deviation from the list's mean, and the log of its rank.

    Args:
        scores: [N, C, K].
        ranks: [N, C, K] among what the retriever brought; 0 for what it did not bring, which counts as NOT_BROUGHT.
        present: [N, C] where there is a candidate.
    """
    # In fp64: in fp32 the mean of equal scores misses them by a rounding error, which is then all their deviation.
    weights = present[:, :, None].astype(np.float64)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    mean = (scores * weights).sum(axis=1, keepdims=True) / total
    deviation = np.sqrt((np.square(scores - mean) * weights).sum(axis=1, keepdims=True) / total)
    z_score = np.where(present[:, :, None], (scores - mean) / np.maximum(deviation, 1e-6), 0.0)
    # In fp64, for how exact a logarithm of fp32 is depends on the processor.
    log_rank = np.log(np.where((ranks > 0) & present[:, :, None], np.minimum(ranks, NOT_BROUGHT), NOT_BROUGHT))
    stacked = np.stack([scores, z_score, log_rank], axis=3)  # [N, C, K, 3]
    return stacked.reshape(*scores.shape[:2], -1).astype(np.float32)


def statistics_features(requested_at_ms: IntArray, candidate_rows: IntArray, statistics: ItemStatistics) -> FloatArray:
    """[N, C, len(STATISTICS)]: aggregates of the last tick; counts and days by logarithm."""
    ticks = statistics.ticks(requested_at_ms)
    # In fp64: how exact a logarithm of fp32 is depends on the processor.
    values = statistics.of(ticks[:, None], candidate_rows).astype(np.float64)
    is_mean = np.array([name == "value_mean" for name in STATISTICS])
    return np.where(is_mean, values, np.log1p(np.maximum(values, 0.0))).astype(np.float32)


def affinity_features(
    history_rows: IntArray, candidate_rows: IntArray, *, categories: IntArray, numbers: FloatArray
) -> FloatArray:
    """[N, C, 2 Ci + Fi]: share of the history with the candidate's category values, and distance of its numbers.

    Args:
        history_rows: [N, L] left-padded.
        candidate_rows: [N, C].
        categories: [R, Ci, M] of the item table.
        numbers: [R, Fi] of the item table.
    """
    mask = (history_rows != PADDING).astype(np.float32)
    short = mask.copy()
    short[:, :-SHORT_HISTORY] = 0.0
    columns = []
    of_history, of_candidates = categories[history_rows], categories[candidate_rows]
    for column in range(categories.shape[1]):
        for weights in (mask, short):
            columns.append(_category_affinity(of_history[:, :, column], weights, of_candidates[:, :, column]))
    recent_numbers, own_numbers = numbers[history_rows[:, -SHORT_HISTORY:]], numbers[candidate_rows]
    for column in range(numbers.shape[1]):
        # cumsum adds in the order of the history; in which order numpy's own sum adds may change its last bit.
        recent = recent_numbers[:, :, column] * short[:, -SHORT_HISTORY:]
        mean = np.cumsum(recent, axis=1, dtype=np.float64)[:, -1] / np.maximum(short.sum(axis=1), 1.0)
        columns.append(np.abs(own_numbers[:, :, column] - mean[:, None]))
    if not columns:
        return np.zeros((*candidate_rows.shape, 0), dtype=np.float32)
    return np.stack(columns, axis=2).astype(np.float32)


def repeat_features(seen_rows: IntArray, seen_age_days: FloatArray, candidate_rows: IntArray) -> FloatArray:
    """[N, C, 2]: how often the query had the candidate, and days since it last had it, both ln(1 + x).

    Args:
        seen_rows: [N, H] ItemRow, newest first.
        seen_age_days: [N, H].
        candidate_rows: [N, C].
    """
    num, width = len(seen_rows), int(max(seen_rows.max(initial=0), candidate_rows.max(initial=0))) + 1
    known = seen_rows >= FIRST
    owner = np.nonzero(known)[0]
    # Of a repeated key `unique` gives the first place, and the newest event comes first.
    keys, newest, counts = np.unique(owner * width + seen_rows[known], return_index=True, return_counts=True)
    if not len(keys):
        keys, newest, counts = np.array([-1]), np.array([-1]), np.array([0])
    wanted = np.arange(num)[:, None] * width + candidate_rows
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    had = keys[place] == wanted
    ages = np.append(seen_age_days[known], MAX_IDLE_DAYS)
    count = np.where(had, counts[place], 0)
    days = np.where(had, ages[newest[place]], MAX_IDLE_DAYS)
    repeats: FloatArray = np.log1p(np.stack([count, days], axis=2)).astype(np.float32)
    return repeats


def _category_affinity(history_values: IntArray, weights: FloatArray, candidate_values: IntArray) -> FloatArray:
    """[N, C]: mean over a candidate's values [N, C, M] of the share of the history [N, L, M] that has the value."""
    num = len(history_values)
    # Of these values alone: the largest of all items would be looked for in the whole table, at every request.
    width = int(max(history_values.max(initial=UNKNOWN), candidate_values.max(initial=UNKNOWN))) + 1
    flat = (np.arange(num)[:, None, None] * width + history_values).reshape(-1)
    spread = np.broadcast_to(weights[:, :, None], history_values.shape).reshape(-1)
    counts = np.bincount(flat, weights=spread, minlength=num * width).reshape(num, width)
    profile = counts / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    profile[:, : UNKNOWN + 1] = 0.0  # neither padding nor the unknown is something in common
    shares = np.take_along_axis(profile, candidate_values.reshape(num, -1), axis=1).reshape(candidate_values.shape)
    known = np.maximum((candidate_values > UNKNOWN).sum(axis=2), 1)
    affinity: FloatArray = (shares.sum(axis=2) / known).astype(np.float32)
    return affinity
