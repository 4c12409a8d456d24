"""THE preprocessing: raw values to model inputs, for N rows, in training and serving alike.

Owns query_inputs, item_inputs and ranker_inputs. Called by data modules with a batch, by the server with a row and by
the exporter with the catalogue; nothing else turns raw values into arrays.

Shapes: N queries, L history length, C candidates a query, R rows of the item table, Cq and Fq query categories and
numbers, Ci and Fi item categories and numbers, M values of a many-valued category, S tokens, F dense features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from features.catalogue import Catalogue, ItemColumns
from features.spec import DAY_MS, FeatureSpec
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.vocab import FIRST, PADDING, UNKNOWN, Vocabularies

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

MAX_IDLE_DAYS = 365.0
SHORT_HISTORY = 5


@dataclass(frozen=True)
class QueryFeatures:
    """Raw features of N queries, as they come from the online store or from the events table; oldest first."""

    history_item_ids: list[list[str]]
    history_values: list[list[float]]
    history_at_ms: list[list[int]]
    categories: list[list[str]]
    numbers: list[list[float]]
    requested_at_ms: list[int]

    def __len__(self) -> int:
        return len(self.requested_at_ms)


@dataclass(frozen=True)
class QueryInputs:
    """Arrays of N queries: histories are left-padded, so that the newest item is always last."""

    history_rows: IntArray  # [N, L] ItemRow
    history_values: FloatArray  # [N, L]
    history_age_days: FloatArray  # [N, L] before the request
    categories: IntArray  # [N, Cq] VocabId
    numbers: FloatArray  # [N, Fq]
    requested_at_ms: IntArray  # [N]
    seen_rows: IntArray  # [N, H] ItemRow of the whole history given, however long: what is not shown again

    @property
    def history_mask(self) -> NDArray[np.bool_]:
        """[N, L] true where there is an item."""
        mask: NDArray[np.bool_] = self.history_rows != PADDING
        return mask

    def take(self, places: slice | IntArray) -> "QueryInputs":
        """Some of the queries."""
        return QueryInputs(**{field.name: getattr(self, field.name)[places] for field in fields(self)})


@dataclass(frozen=True)
class ItemInputs:
    """Arrays of the item table; rows PADDING and UNKNOWN come first."""

    item_id: IntArray  # [R] VocabId
    categories: IntArray  # [R, Ci, M] VocabId
    numbers: FloatArray  # [R, Fi]
    title_tokens: NDArray[np.int32]  # [R, history_tokens] the item as a part of a history
    text_tokens: NDArray[np.int32]  # [R, candidate_tokens] the item as a candidate


@dataclass(frozen=True)
class RankerInputs:
    """What a ranker reads of C candidates for each of N queries."""

    tokens: IntArray  # [N, C, S]
    dense: FloatArray  # [N, C, F]


def query_inputs(
    queries: QueryFeatures, *, spec: FeatureSpec, vocabularies: Vocabularies, catalogue: Catalogue
) -> QueryInputs:
    """Encode N queries; the towers see the newest part of a history longer than the spec's."""
    num, length = len(queries), spec.history_length
    rows = np.full((num, length), PADDING, dtype=np.int64)
    values = np.zeros((num, length), dtype=np.float32)
    at_ms = np.repeat(np.asarray(queries.requested_at_ms, dtype=np.int64)[:, None], length, axis=1)
    longest = max((len(item_ids) for item_ids in queries.history_item_ids), default=0)
    seen_rows = np.full((num, longest), PADDING, dtype=np.int64)
    for n in range(num):
        seen = catalogue.rows(queries.history_item_ids[n])
        seen_rows[n, : len(seen)] = seen
        kept = min(len(seen), length)
        if kept:
            rows[n, -kept:] = seen[-kept:]
            values[n, -kept:] = queries.history_values[n][-kept:]
            at_ms[n, -kept:] = queries.history_at_ms[n][-kept:]
    requested_at_ms = np.asarray(queries.requested_at_ms, dtype=np.int64)
    age_days = np.clip((requested_at_ms[:, None] - at_ms) / DAY_MS, 0.0, MAX_IDLE_DAYS).astype(np.float32)
    names, number_names = spec.names("query", "category"), spec.names("query", "number")
    categories = np.zeros((num, len(names)), dtype=np.int64)
    for column, name in enumerate(names):
        categories[:, column] = vocabularies.categories[name].encode([row[column] for row in queries.categories])
    numbers = np.zeros((num, len(number_names)), dtype=np.float32)
    for column, name in enumerate(number_names):
        raw = np.array([row[column] for row in queries.numbers], dtype=np.float64)
        numbers[:, column] = vocabularies.numbers[name].scale(raw)
    return QueryInputs(
        history_rows=rows,
        history_values=values,
        history_age_days=age_days,
        categories=categories,
        numbers=numbers,
        requested_at_ms=requested_at_ms,
        seen_rows=seen_rows,
    )


def item_inputs(
    items: ItemColumns, *, spec: FeatureSpec, vocabularies: Vocabularies, tokenizer: TextTokenizer
) -> ItemInputs:
    """Encode the catalogue; a category with more values than its places keeps the first ones."""
    num_rows, places = len(items.catalogue), spec.length("item", "category")
    item_id = np.full(num_rows, PADDING, dtype=np.int64)
    item_id[UNKNOWN] = UNKNOWN
    item_id[FIRST:] = vocabularies.categories["item_id"].encode(items.catalogue.item_ids)
    category_names, number_names = spec.names("item", "category"), spec.names("item", "number")
    categories = np.zeros((num_rows, len(category_names), places), dtype=np.int64)
    for column, name in enumerate(category_names):
        for row, raw in enumerate(items.categories[name], start=FIRST):
            kept = list(raw[:places])
            categories[row, column, : len(kept)] = vocabularies.categories[name].encode(kept)
    numbers = np.zeros((num_rows, len(number_names)), dtype=np.float32)
    for column, name in enumerate(number_names):
        numbers[FIRST:, column] = vocabularies.numbers[name].scale(items.numbers[name])
    titles = item_texts(items, names=spec.names("item", "text")[:1])
    texts = item_texts(items, names=spec.names("item", "text"))
    return ItemInputs(
        item_id=item_id,
        categories=categories,
        numbers=numbers,
        title_tokens=tokenizer.encode(titles, length=spec.text.history_tokens),
        text_tokens=tokenizer.encode(texts, length=spec.text.candidate_tokens),
    )


def item_texts(items: ItemColumns, *, names: Sequence[str]) -> list[str]:
    """One line of text a row of the item table, from the named text columns; padding and unknown have none."""
    per_item = zip(*(items.texts[name] for name in names), strict=True)
    return ["", "", *(". ".join(part for part in parts if part) for parts in per_item)]


def ranker_inputs(
    queries: QueryInputs,
    candidate_rows: IntArray,
    retriever_scores: FloatArray,
    *,
    spec: FeatureSpec,
    items: ItemInputs,
    statistics: ItemStatistics,
    special_tokens: tuple[int, int],
) -> RankerInputs:
    """Encode C candidates for each of N queries.

    Args:
        queries: of N rows.
        candidate_rows: [N, C] ItemRow in the order of retrieval; PADDING where there are fewer than C.
        retriever_scores: [N, C, K] score of each retriever; the first is the one that ordered the candidates.
        spec: names the dense features in order.
        items: the item table.
        statistics: item aggregates at the ticks of these requests.
        special_tokens: ids of [CLS] and [SEP].
    """
    dense = np.concatenate(
        [
            _retriever_features(retriever_scores, candidate_rows != PADDING),
            _statistics_features(queries, candidate_rows, statistics),
            _query_features(queries, num_candidates=candidate_rows.shape[1]),
            _affinity_features(queries, candidate_rows, items),
        ],
        axis=2,
    )
    expected = spec.names("ranker", "number")
    if dense.shape[2] != len(expected):
        raise ValueError(f"the spec names {len(expected)} ranker features but {dense.shape[2]} were made: {expected}")
    return RankerInputs(
        tokens=_tokens(queries, candidate_rows, spec=spec, items=items, special_tokens=special_tokens), dense=dense
    )


def ranker_feature_names(
    *, retrievers: Sequence[str], item_categories: Sequence[str], item_numbers: Sequence[str]
) -> tuple[str, ...]:
    """Names of the dense features, in the order in which `ranker_inputs` stacks them."""
    return (
        *(f"{name}_{part}" for name in retrievers for part in ("score", "z_score", "log_rank")),
        *(f"item_{name}" for name in STATISTICS),
        *("query_history_length", "query_value_mean", "query_idle_days"),
        *(f"{name}_affinity_{span}" for name in item_categories for span in ("long", "short")),
        *(f"{name}_difference" for name in item_numbers),
    )


def _retriever_features(scores: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    """[N, C, 3K]: score, its deviation from the list's mean, and the log of its rank in the list."""
    # In fp64: in fp32 the mean of equal scores misses them by a rounding error, which is then all their deviation.
    weights = present[:, :, None].astype(np.float64)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    mean = (scores * weights).sum(axis=1, keepdims=True) / total
    deviation = np.sqrt((np.square(scores - mean) * weights).sum(axis=1, keepdims=True) / total)
    z_score = np.where(present[:, :, None], (scores - mean) / np.maximum(deviation, 1e-6), 0.0)
    # Ties keep the order of retrieval, so a retriever that knows nothing of a query repeats the first one's ranks.
    order = np.argsort(np.where(present[:, :, None], -scores, np.inf), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :, None], axis=1)
    stacked = np.stack([scores, z_score, np.log(ranks)], axis=3)  # [N, C, K, 3]
    return stacked.reshape(*scores.shape[:2], -1).astype(np.float32)


def _statistics_features(queries: QueryInputs, candidate_rows: IntArray, statistics: ItemStatistics) -> FloatArray:
    """[N, C, len(STATISTICS)]: aggregates of the last tick; counts and days by logarithm."""
    ticks = statistics.ticks(queries.requested_at_ms)
    values = statistics.values[ticks[:, None], candidate_rows]
    is_mean = np.array([name == "value_mean" for name in STATISTICS])
    return np.where(is_mean, values, np.log1p(values)).astype(np.float32)


def _query_features(queries: QueryInputs, *, num_candidates: int) -> FloatArray:
    """[N, C, 3]: what holds for all candidates of a query."""
    mask = queries.history_mask
    count = mask.sum(axis=1)
    value_mean = (queries.history_values * mask).sum(axis=1) / np.maximum(count, 1)
    idle_days = np.where(count > 0, queries.history_age_days[:, -1], MAX_IDLE_DAYS)
    columns = np.stack([np.log1p(count), value_mean, np.log1p(idle_days)], axis=1).astype(np.float32)
    return np.repeat(columns[:, None, :], num_candidates, axis=1)


def _affinity_features(queries: QueryInputs, candidate_rows: IntArray, items: ItemInputs) -> FloatArray:
    """[N, C, 2 Ci + Fi]: share of the history with the candidate's category values, and distance of its numbers."""
    mask = queries.history_mask.astype(np.float32)
    short = mask.copy()
    short[:, :-SHORT_HISTORY] = 0.0
    columns = []
    for column in range(items.categories.shape[1]):
        values = items.categories[:, column, :]  # [R, M]
        for weights in (mask, short):
            columns.append(_category_affinity(values, queries.history_rows, weights, candidate_rows))
    for column in range(items.numbers.shape[1]):
        numbers = items.numbers[:, column]
        mean = (numbers[queries.history_rows] * short).sum(axis=1) / np.maximum(short.sum(axis=1), 1.0)
        columns.append(np.abs(numbers[candidate_rows] - mean[:, None]))
    if not columns:
        return np.zeros((*candidate_rows.shape, 0), dtype=np.float32)
    return np.stack(columns, axis=2).astype(np.float32)


def _category_affinity(
    values: IntArray, history_rows: IntArray, weights: FloatArray, candidate_rows: IntArray
) -> FloatArray:
    """[N, C]: mean over the candidate's values of the share of the history that has the value."""
    num, width = history_rows.shape[0], int(values.max(initial=0)) + 1
    history_values = values[history_rows]  # [N, L, M]
    flat = (np.arange(num)[:, None, None] * width + history_values).reshape(-1)
    spread = np.broadcast_to(weights[:, :, None], history_values.shape).reshape(-1)
    counts = np.bincount(flat, weights=spread, minlength=num * width).reshape(num, width)
    profile = counts / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    profile[:, : UNKNOWN + 1] = 0.0  # neither padding nor the unknown is something in common
    candidate_values = values[candidate_rows]  # [N, C, M]
    shares = np.take_along_axis(profile, candidate_values.reshape(num, -1), axis=1).reshape(candidate_values.shape)
    known = np.maximum((candidate_values > UNKNOWN).sum(axis=2), 1)
    affinity: FloatArray = (shares.sum(axis=2) / known).astype(np.float32)
    return affinity


def _tokens(
    queries: QueryInputs,
    candidate_rows: IntArray,
    *,
    spec: FeatureSpec,
    items: ItemInputs,
    special_tokens: tuple[int, int],
) -> IntArray:
    """[N, C, S]: [CLS] titles of the newest history items, newest first [SEP] text of the candidate [SEP]."""
    cls, sep = special_tokens
    num, num_candidates = candidate_rows.shape
    newest = queries.history_rows[:, ::-1][:, : spec.text.history_items]
    history = items.title_tokens[newest].reshape(num, -1)
    tokens = np.empty((num, num_candidates, spec.text.length), dtype=np.int64)
    split = 1 + history.shape[1]
    tokens[:, :, 0] = cls
    tokens[:, :, 1:split] = history[:, None, :]
    tokens[:, :, split] = sep
    tokens[:, :, split + 1 : -1] = items.text_tokens[candidate_rows]
    tokens[:, :, -1] = sep
    return tokens
