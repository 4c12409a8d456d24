"""One batch of Triton's through the pipeline: which requests share a call, and what a bad one gets.

Owns that a request that cannot be answered fails alone. Loaded inside Triton; knows nothing of its API.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from features.transforms import QueryFeatures
from serving import wire
from serving.answers import answers_of
from serving.errors import InvalidRequest, RequestFailed, ServingError
from serving.item_filter import ItemFilter
from serving.pipeline import Pipeline
from serving.wire import Request, Tensors

_log = logging.getLogger(__name__)


def answer_batch(requests: Sequence[Mapping[str, NDArray[Any]]], *, pipeline: Pipeline) -> list[Tensors | ServingError]:
    """Answer tensors for each request's tensors, or the reason why there are none."""
    responses: list[Tensors | ServingError] = [RequestFailed("never answered")] * len(requests)
    groups: dict[tuple[int, bool, ItemFilter | None], dict[int, Request]] = {}
    for place, tensors in enumerate(requests):
        try:
            request = wire.decode_request(tensors, spec=pipeline.release.spec)
        except InvalidRequest as error:
            responses[place] = error
        else:
            groups.setdefault((request.k, request.with_candidates, request.only), {})[place] = request
    for group in groups.values():
        for place, response in zip(group, _answer_group(list(group.values()), pipeline=pipeline), strict=True):
            responses[place] = response
    return responses


def _answer_group(requests: list[Request], *, pipeline: Pipeline) -> list[Tensors | ServingError]:
    try:
        return list(_recommend(requests, pipeline=pipeline))
    except Exception as error:  # whatever breaks inside must reach the caller and not end the process
        if len(requests) > 1:  # alone, the one that broke it fails, and its neighbours get their answers
            return list(chain.from_iterable(_answer_group([request], pipeline=pipeline) for request in requests))
        _log.exception("a request failed inside the pipeline")
        return [RequestFailed(f"{type(error).__name__}: {error}")]


def _recommend(requests: list[Request], *, pipeline: Pipeline) -> list[Tensors]:
    """One pipeline call for requests that want lists of the same length, of the same items."""
    queries = _joined([request.queries for request in requests])
    first = requests[0]
    found = pipeline.recommend(queries, k=first.k, with_candidates=first.with_candidates, only=first.only)
    answers = answers_of(found)
    tensors, start = [], 0
    for request in requests:
        end = start + len(request.queries)
        tensors.append(wire.encode_answers(answers[start:end]))
        start = end
    return tensors


def _joined(parts: list[QueryFeatures]) -> QueryFeatures:
    if len(parts) == 1:
        return parts[0]
    joined = {
        field.name: list(chain.from_iterable(getattr(part, field.name) for part in parts))
        for field in fields(QueryFeatures)
    }
    return QueryFeatures(**joined)
