"""The tensors of the Triton model `recommend`: their names, and how requests and answers become them and back.

Owns the wire format, once for the client and for the server, and the limits that a request must keep. Loaded inside
Triton: numpy alone.
"""

# Shapes: B queries in one request, H entries of the longest history among them, k items of an answer, C candidates.

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.spec import FeatureSpec
from features.transforms import QueryFeatures, single_precision
from serving.answers import STAGES, Answer, ScoredItem, none_if_nan
from serving.errors import InvalidRequest
from serving.item_filter import ItemFilter

Tensors = dict[str, NDArray[Any]]

MODEL = "recommend"
INPUTS = {
    "history_items": "BYTES",
    "history_events": "BYTES",
    "history_values": "FP32",
    "history_at_ms": "INT64",
    "query_text": "BYTES",
    "query_categories": "BYTES",
    "query_numbers": "FP32",
    "requested_at_ms": "INT64",
    "k": "INT32",
    "spec_hash": "BYTES",
    "with_candidates": "BOOL",
    "only": "BYTES",
}
OUTPUTS = {
    "item_ids": "BYTES",
    "scores": "FP32",
    "retrieval_scores": "FP32",
    "retrieval_ranks": "INT32",
    "probabilities": "FP32",
    "candidate_ids": "BYTES",
    "candidate_scores": "FP32",
    "release_id": "BYTES",
    "delta": "INT64",
    "changes": "INT64",
    "stage_ms": "FP32",
}

MAX_BATCH = 8
MAX_K = 100
MAX_HISTORY = 10_000
MAX_STRING_BYTES = 1024
MAX_TEXT_BYTES = 8192
MAX_AT_MS = 253_402_300_799_999  # the last millisecond of the year 9999


@dataclass(frozen=True)
class Request:
    """What one Triton request asks: the same list length, and the same filter, for each of its queries."""

    queries: QueryFeatures
    k: int
    with_candidates: bool
    only: ItemFilter | None


def encode_request(
    queries: QueryFeatures, *, k: int, with_candidates: bool, spec_hash: str, only: ItemFilter | None = None
) -> Tensors:
    """Tensors of one request; histories are left-padded with empty ids to the longest, at least one place."""
    num = len(queries)
    width = max(1, *(len(history) for history in queries.history_item_ids))
    items, events = (np.full((num, width), b"", dtype=object) for _ in range(2))
    values = np.zeros((num, width), dtype=np.float32)
    at_ms = np.zeros((num, width), dtype=np.int64)
    for row, history in enumerate(queries.history_item_ids):
        if history:
            items[row, -len(history) :] = [item_id.encode() for item_id in history]
            events[row, -len(history) :] = [event.encode() for event in queries.history_events[row]]
            values[row, -len(history) :] = single_precision(queries.history_values[row])
            at_ms[row, -len(history) :] = queries.history_at_ms[row]
    return {
        "history_items": items,
        "history_events": events,
        "history_values": values,
        "history_at_ms": at_ms,
        "query_text": _bytes([[text.encode()] for text in queries.texts]),
        "query_categories": _bytes([[value.encode() for value in row] for row in queries.categories]),
        "query_numbers": single_precision(queries.numbers).reshape(num, -1),
        "requested_at_ms": np.array(queries.requested_at_ms, dtype=np.int64)[:, None],
        "k": np.full((num, 1), k, dtype=np.int32),
        "spec_hash": np.full((num, 1), spec_hash.encode(), dtype=object),
        "with_candidates": np.full((num, 1), with_candidates, dtype=np.bool_),
        "only": np.full((num, 1), json.dumps(only.to_json()).encode() if only else b"", dtype=object),
    }


def decode_request(tensors: Mapping[str, NDArray[Any]], *, spec: FeatureSpec) -> Request:
    """The reverse of `encode_request`. Triton has checked names, types and numbers of dimensions.

    Raises:
        InvalidRequest: a value is out of bounds, two lengths differ, or the features are of another spec.
    """
    _check_spec(tensors["spec_hash"], spec=spec)
    k = _one_value(tensors, "k")
    if not 1 <= k <= MAX_K:
        raise InvalidRequest(field="k", message=f"expected 1 to {MAX_K}, got {k}")
    requested_at_ms = [int(value) for value in tensors["requested_at_ms"][:, 0]]
    if not all(0 <= value <= MAX_AT_MS for value in requested_at_ms):
        raise InvalidRequest(
            field="requested_at_ms",
            message=f"expected milliseconds since 1970 up to {MAX_AT_MS}, got {requested_at_ms}",
        )
    item_ids, events, values, at_ms = _histories(tensors)
    return Request(
        queries=QueryFeatures(
            history_item_ids=item_ids,
            history_events=events,
            history_values=values,
            history_at_ms=at_ms,
            texts=[
                text_of(value, field="query_text", max_bytes=MAX_TEXT_BYTES) for value in tensors["query_text"][:, 0]
            ],
            categories=_strings(tensors, "query_categories", num=len(spec.names("query", "category"))),
            numbers=_numbers(tensors, "query_numbers", num=len(spec.names("query", "number", "column"))),
            requested_at_ms=requested_at_ms,
        ),
        k=k,
        with_candidates=bool(_one_value(tensors, "with_candidates")),
        only=_only(tensors["only"], spec=spec),
    )


def encode_answers(answers: Sequence[Answer]) -> Tensors:
    """Tensors of one request's answers; shorter lists are padded with empty ids and minus infinity.

    A probability that is missing is NaN.
    """
    items = [answer.items for answer in answers]
    candidates = [answer.candidates for answer in answers]
    return {
        "item_ids": _padded([[one.item_id.encode() for one in row] for row in items], dtype=object, padding=b""),
        "scores": _padded([[one.score for one in row] for row in items], dtype=np.float32, padding=-np.inf),
        "retrieval_scores": _padded(
            [[one.retrieval_score for one in row] for row in items], dtype=np.float32, padding=-np.inf
        ),
        "retrieval_ranks": _padded([[one.retrieval_rank for one in row] for row in items], dtype=np.int32, padding=0),
        "probabilities": _padded(
            [[np.nan if one.probability is None else one.probability for one in row] for row in items],
            dtype=np.float32,
            padding=np.nan,
        ),
        "candidate_ids": _padded([[one[0].encode() for one in row] for row in candidates], dtype=object, padding=b""),
        "candidate_scores": _padded([[one[1] for one in row] for row in candidates], dtype=np.float32, padding=-np.inf),
        "release_id": _bytes([[answer.release_id.encode()] for answer in answers]),
        "delta": np.array([[answer.delta] for answer in answers], dtype=np.int64),
        "changes": np.array([[answer.changes] for answer in answers], dtype=np.int64),
        "stage_ms": np.array([[answer.stage_ms[stage] for stage in STAGES] for answer in answers], dtype=np.float32),
    }


def decode_answers(tensors: Mapping[str, NDArray[Any]]) -> list[Answer]:
    """The reverse of `encode_answers`."""
    names = ("item_ids", "scores", "retrieval_scores", "retrieval_ranks", "probabilities")
    item_columns = [tensors[name] for name in names]
    answers = []
    for row in range(len(tensors["item_ids"])):
        items = zip(*(column[row].tolist() for column in item_columns), strict=True)
        candidates = zip(tensors["candidate_ids"][row].tolist(), tensors["candidate_scores"][row].tolist(), strict=True)
        answers.append(
            Answer(
                items=tuple(
                    ScoredItem(
                        item_id=item_id.decode(),
                        score=score,
                        retrieval_score=retrieved,
                        retrieval_rank=rank,
                        probability=none_if_nan(probability),
                    )
                    for item_id, score, retrieved, rank, probability in items
                    if item_id
                ),
                candidates=tuple((item_id.decode(), score) for item_id, score in candidates if item_id),
                release_id=tensors["release_id"][row, 0].decode(),
                delta=int(tensors["delta"][row, 0]),
                changes=int(tensors["changes"][row, 0]),
                stage_ms=dict(zip(STAGES, tensors["stage_ms"][row].tolist(), strict=True)),
            )
        )
    return answers


def _histories(
    tensors: Mapping[str, NDArray[Any]],
) -> tuple[list[list[str]], list[list[str]], list[list[float]], list[list[int]]]:
    shape = tensors["history_items"].shape
    for name in ("history_events", "history_values", "history_at_ms"):
        if tensors[name].shape != shape:
            raise InvalidRequest(
                field=name,
                message=f"expected the shape of history_items {list(shape)}, got {list(tensors[name].shape)}",
            )
    if shape[1] > MAX_HISTORY:
        raise InvalidRequest(field="history_items", message=f"expected at most {MAX_HISTORY} entries, got {shape[1]}")
    if not np.isfinite(tensors["history_values"]).all():
        raise InvalidRequest(field="history_values", message="expected finite numbers")
    if (tensors["history_at_ms"] < 0).any() or (tensors["history_at_ms"] > MAX_AT_MS).any():
        raise InvalidRequest(field="history_at_ms", message=f"expected milliseconds since 1970 up to {MAX_AT_MS}")
    item_ids, events, values, at_ms = [], [], [], []
    for row in range(shape[0]):
        ids = [text_of(value, field="history_items") for value in tensors["history_items"][row]]
        start = next((place for place, item_id in enumerate(ids) if item_id), len(ids))
        if "" in ids[start:]:
            raise InvalidRequest(field="history_items", message="expected empty ids on the left alone, as padding")
        item_ids.append(ids[start:])
        events.append([text_of(value, field="history_events") for value in tensors["history_events"][row, start:]])
        values.append(tensors["history_values"][row, start:].tolist())
        at_ms.append(tensors["history_at_ms"][row, start:].tolist())
    return item_ids, events, values, at_ms


def _check_spec(tensor: NDArray[Any], *, spec: FeatureSpec) -> None:
    for value in tensor[:, 0]:
        got = text_of(value, field="spec_hash")
        if got != spec.hash:
            raise InvalidRequest(
                field="spec_hash",
                message=f"the release has feature spec {spec.hash}, the request's features have {got}; read them again",
            )


def _only(tensor: NDArray[Any], *, spec: FeatureSpec) -> ItemFilter | None:
    if len(set(tensor[:, 0])) != 1:
        raise InvalidRequest(field="only", message="expected one filter for all queries of a request")
    only = ItemFilter.from_json(tensor[0, 0])
    if only is not None:
        only.check(spec)
    return only


def _one_value(tensors: Mapping[str, NDArray[Any]], field: str) -> int:
    values = np.unique(tensors[field])
    if len(values) != 1:
        raise InvalidRequest(field=field, message=f"expected one value for all queries of a request, got {values}")
    return int(values[0])


def _strings(tensors: Mapping[str, NDArray[Any]], field: str, *, num: int) -> list[list[str]]:
    _check_width(tensors[field], field=field, num=num)
    return [[text_of(value, field=field) for value in row] for row in tensors[field]]


def _numbers(tensors: Mapping[str, NDArray[Any]], field: str, *, num: int) -> list[list[float]]:
    _check_width(tensors[field], field=field, num=num)
    if np.isinf(tensors[field]).any():
        raise InvalidRequest(field=field, message="expected finite numbers, or nan for a missing one")
    rows: list[list[float]] = tensors[field].tolist()
    return rows


def _check_width(tensor: NDArray[Any], *, field: str, num: int) -> None:
    if tensor.shape[1] != num:
        raise InvalidRequest(field=field, message=f"expected {num} values a query by the spec, got {tensor.shape[1]}")


def text_of(value: bytes, *, field: str, max_bytes: int = MAX_STRING_BYTES) -> str:
    """A short text of UTF-8.

    Raises:
        InvalidRequest: it is longer, or something else.
    """
    if len(value) > max_bytes:
        raise InvalidRequest(field=field, message=f"expected at most {max_bytes} bytes, got {len(value)}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(field=field, message=f"expected UTF-8, got {value[:32]!r}") from None


def _bytes(rows: list[list[bytes]]) -> NDArray[Any]:
    return _padded(rows, dtype=object, padding=b"")


def _padded(rows: Sequence[Sequence[Any]], *, dtype: Any, padding: Any) -> NDArray[Any]:
    padded = np.full((len(rows), max(map(len, rows), default=0)), padding, dtype=dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded
