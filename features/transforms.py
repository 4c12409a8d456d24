"""THE preprocessing: raw values to model inputs, for N rows, in training and serving alike.

Owns query_inputs, item_inputs and ranker_inputs. Called by data modules with a batch, by the server with a row and by
the exporter with the catalogue; nothing else turns raw values into arrays.

Shapes: N queries, L history length, H events of the longest history given, C candidates a query, R rows of the item
table, Cq and Fq query categories and numbers, Fc numbers of the context, Ci and Fi item categories and numbers, M
values of a many-valued category, Sq tokens of a query's text, S tokens of a ranker's row, F dense features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features import pairs
from features.catalogue import Catalogue, ItemColumns
from features.context import MAX_IDLE_DAYS, context_inputs
from features.spec import DAY_MS, FeatureSpec
from features.statistics import ItemStatistics
from features.text import TextTokenizer
from features.vocab import EVENT, FIRST, PADDING, UNKNOWN, Vocabularies

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)

MAX_GAP_DAYS = 3650.0


@dataclass(frozen=True)
class QueryFeatures:
    """Raw features of N queries, as they come from the online store or from the events table; oldest first.

    Attributes:
        history_events: the kind of each event.
        texts: what each query says; "" where it says nothing.
        categories, numbers: a query's attributes in the spec's order.
    """

    history_item_ids: list[list[str]]
    history_events: list[list[str]]
    history_values: list[list[float]]
    history_at_ms: list[list[int]]
    texts: list[str]
    categories: list[list[str]]
    numbers: list[list[float]]
    requested_at_ms: list[int]

    def __len__(self) -> int:
        return len(self.requested_at_ms)


@dataclass(frozen=True)
class QueryInputs:
    """Arrays of N queries: histories are left-padded, so that the newest item is always last."""

    history_rows: IntArray  # [N, L] ItemRow
    history_events: IntArray  # [N, L] VocabId
    history_values: FloatArray  # [N, L]
    history_age_days: FloatArray  # [N, L] before the request
    history_gap_days: FloatArray  # [N, L] until the next event, the newest's until the request
    text_tokens: IntArray  # [N, Sq]
    categories: IntArray  # [N, Cq] VocabId
    numbers: FloatArray  # [N, Fq]
    context: FloatArray  # [N, Fc] features/context.py
    requested_at_ms: IntArray  # [N]
    seen_rows: IntArray  # [N, H] ItemRow of the whole history given, newest first
    seen_age_days: FloatArray  # [N, H] before the request

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
    """What rankers read of C candidates for each of N queries; each has inputs for some of it.

    Attributes:
        tokens: [N, C, S] the whole row of context and candidate.
        context_tokens: [N, Sc] the row up to the first [SEP], which all candidates share.
        candidate_states: [N, C, Si, W] the candidate's text as a ranker has read it beforehand; W is 0 without one.
        dense: [N, C, F].
    """

    tokens: IntArray
    context_tokens: IntArray
    candidate_states: NDArray[np.int8]
    dense: FloatArray

    @property
    def by_name(self) -> dict[str, NDArray[Any]]:
        """As the inputs of ranker.onnx are called; a ranker has no input for what it does not read."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def query_inputs(
    queries: QueryFeatures,
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    catalogue: Catalogue,
    tokenizer: TextTokenizer | None = None,
) -> QueryInputs:
    """Encode N queries; the towers see the newest part of a history longer than the spec's.

    Args:
        queries: of N rows; no feature looks further back than the spec's stored_history.
        spec: names the features in order.
        vocabularies: by feature name.
        catalogue: which item stands in which row.
        tokenizer: of the queries' texts; needed where the spec has them.
    """
    num, length = len(queries), spec.history_length
    stored = spec.stored_history
    lengths = np.array([min(len(item_ids), stored) for item_ids in queries.history_item_ids], dtype=np.int64)
    # All histories flat, one after the other.
    item_rows = catalogue.rows(_flat(queries.history_item_ids, stored))
    events = vocabularies.categories[EVENT].encode(_flat(queries.history_events, stored))
    values = single_precision(_flat(queries.history_values, stored))
    at_ms = np.array(_flat(queries.history_at_ms, stored), dtype=np.int64)
    requested_at_ms = np.asarray(queries.requested_at_ms, dtype=np.int64)
    owner = np.repeat(np.arange(num), lengths)
    age_days = np.clip((requested_at_ms[owner] - at_ms) / DAY_MS, 0.0, MAX_IDLE_DAYS).astype(np.float32)
    gap_days = _gap_days(at_ms, lengths=lengths, requested_at_ms=requested_at_ms)
    from_newest = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(owner))
    kept = from_newest < length
    history = owner[kept], length - 1 - from_newest[kept]  # left-padded
    seen = owner, from_newest
    seen_shape = (num, int(lengths.max(initial=0)))
    names, number_names = spec.names("query", "category"), spec.names("query", "number", "column")
    columns = [vocabularies.categories[name].encode(_column(queries.categories, n)) for n, name in enumerate(names)]
    numbers = [
        vocabularies.numbers[name].scale(single_precision(_column(queries.numbers, n)))
        for n, name in enumerate(number_names)
    ]
    return QueryInputs(
        history_rows=_placed(item_rows[kept], history, shape=(num, length)),
        history_events=_placed(events[kept], history, shape=(num, length)),
        history_values=_placed(values[kept], history, shape=(num, length)),
        history_age_days=_placed(age_days[kept], history, shape=(num, length)),
        history_gap_days=_placed(gap_days[kept], history, shape=(num, length)),
        text_tokens=_text_tokens(queries.texts, spec=spec, tokenizer=tokenizer),
        categories=np.stack(columns, axis=1) if columns else np.zeros((num, 0), dtype=np.int64),
        numbers=np.stack(numbers, axis=1) if numbers else np.zeros((num, 0), dtype=np.float32),
        context=context_inputs(
            requested_at_ms=requested_at_ms,
            lengths=lengths,
            item_rows=item_rows,
            values=values,
            at_ms=at_ms,
            session_gap_minutes=spec.session_gap_minutes,
        ),
        requested_at_ms=requested_at_ms,
        seen_rows=_placed(item_rows, seen, shape=seen_shape),
        seen_age_days=_placed(age_days, seen, shape=seen_shape),
    )


def single_precision(values: Sequence[float] | Sequence[Sequence[float]]) -> FloatArray:
    """As float32, which is how requests carry numbers; what is too large for it becomes its largest."""
    largest = np.finfo(np.float32).max
    return np.clip(np.asarray(values, dtype=np.float64), -largest, largest).astype(np.float32)


def item_inputs(
    items: ItemColumns, *, spec: FeatureSpec, vocabularies: Vocabularies, tokenizer: TextTokenizer
) -> ItemInputs:
    """Encode the catalogue; a category with more distinct values than its places keeps the first ones."""
    num_rows, places = len(items.catalogue), spec.length("item", "category")
    item_id = np.full(num_rows, PADDING, dtype=np.int64)
    item_id[UNKNOWN] = UNKNOWN
    item_id[FIRST:] = vocabularies.categories["item_id"].encode(items.catalogue.item_ids)
    category_names, number_names = spec.names("item", "category"), spec.names("item", "number", "column")
    categories = np.zeros((num_rows, len(category_names), places), dtype=np.int64)
    for column, name in enumerate(category_names):
        for row, raw in enumerate(items.categories[name], start=FIRST):
            kept = list(dict.fromkeys(raw))[:places]
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
    if not names:
        return [""] * len(items.catalogue)
    per_item = zip(*(items.texts[name] for name in names), strict=True)
    return ["", "", *(". ".join(part for part in parts if part) for parts in per_item)]


def ranker_inputs(
    queries: QueryInputs,
    candidate_rows: IntArray,
    retriever_scores: FloatArray,
    retriever_ranks: IntArray,
    *,
    spec: FeatureSpec,
    items: ItemInputs,
    statistics: ItemStatistics,
    special_tokens: tuple[int, int],
    item_states: NDArray[np.int8] | None = None,
) -> RankerInputs:
    """Encode C candidates for each of N queries.

    Args:
        queries: of N rows.
        candidate_rows: [N, C] ItemRow in the order of retrieval; PADDING where there are fewer than C.
        retriever_scores: [N, C, K] fused and of each retriever; the first is what ordered the candidates.
        retriever_ranks: [N, C, K] place by each; 0 where a retriever did not bring the candidate.
        spec: names the dense features in order.
        items: the item table.
        statistics: item aggregates at the ticks of these requests.
        special_tokens: ids of [CLS] and [SEP].
        item_states: [R, Si, W] of the ranker that reads candidates beforehand.
    """
    dense = np.concatenate(
        [
            pairs.retriever_features(retriever_scores, retriever_ranks, candidate_rows != PADDING),
            pairs.statistics_features(queries.requested_at_ms, candidate_rows, statistics),
            np.repeat(queries.context[:, None, :], candidate_rows.shape[1], axis=1),
            pairs.affinity_features(
                queries.history_rows, candidate_rows, categories=items.categories, numbers=items.numbers
            ),
            pairs.repeat_features(queries.seen_rows, queries.seen_age_days, candidate_rows),
        ],
        axis=2,
    )
    expected = spec.names("ranker", "number")
    if dense.shape[2] != len(expected):
        raise ValueError(f"the spec names {len(expected)} ranker features but {dense.shape[2]} were made: {expected}")
    tokens = _tokens(queries, candidate_rows, spec=spec, items=items, special_tokens=special_tokens)
    if item_states is None:
        states = np.zeros((*candidate_rows.shape, spec.text.candidate_tokens + 1, 0), dtype=np.int8)
    else:
        states = item_states[candidate_rows]
    return RankerInputs(
        tokens=tokens, context_tokens=tokens[:, 0, : spec.text.context_tokens + 2], candidate_states=states, dense=dense
    )


def _flat(histories: Sequence[Sequence[Any]], stored: int) -> list[Any]:
    """The newest `stored` entries of every history, one after the other."""
    return list(chain.from_iterable(history[max(len(history) - stored, 0) :] for history in histories))


def _gap_days(at_ms: IntArray, *, lengths: IntArray, requested_at_ms: IntArray) -> FloatArray:
    """Days from each event of all histories to the next one of its history, from the newest to the request."""
    following, some = np.roll(at_ms, -1), lengths > 0
    following[np.cumsum(lengths)[some] - 1] = requested_at_ms[some]
    return np.clip((following - at_ms) / DAY_MS, 0.0, MAX_GAP_DAYS).astype(np.float32)


def _column(rows: Sequence[Sequence[Any]], place: int) -> list[Any]:
    return [row[place] for row in rows]


def _placed(values: NDArray[Scalar], places: tuple[IntArray, IntArray], *, shape: tuple[int, int]) -> NDArray[Scalar]:
    """An array of zeros, which is PADDING, with `values` at their places."""
    array = np.zeros(shape, dtype=values.dtype)
    array[places] = values
    return array


def _text_tokens(texts: Sequence[str], *, spec: FeatureSpec, tokenizer: TextTokenizer | None) -> IntArray:
    """Token ids [N, Sq]."""
    if not spec.text.query_tokens:
        return np.zeros((len(texts), 0), dtype=np.int64)
    if tokenizer is None:
        raise ValueError("the feature spec has a query text: query_inputs needs its tokenizer")
    return tokenizer.encode(texts, length=spec.text.query_tokens).astype(np.int64)


def _tokens(
    queries: QueryInputs,
    candidate_rows: IntArray,
    *,
    spec: FeatureSpec,
    items: ItemInputs,
    special_tokens: tuple[int, int],
) -> IntArray:
    """[N, C, S]: [CLS] query text, titles of the newest history items [SEP] text of the candidate [SEP]."""
    cls, sep = special_tokens
    num, num_candidates = candidate_rows.shape
    newest = queries.history_rows[:, ::-1][:, : spec.text.history_items]
    context = np.concatenate([queries.text_tokens, items.title_tokens[newest].reshape(num, -1)], axis=1)
    tokens = np.empty((num, num_candidates, spec.text.length), dtype=np.int64)
    split = 1 + context.shape[1]
    tokens[:, :, 0] = cls
    tokens[:, :, 1:split] = context[:, None, :]
    tokens[:, :, split] = sep
    tokens[:, :, split + 1 : -1] = items.text_tokens[candidate_rows]
    tokens[:, :, -1] = sep
    return tokens
