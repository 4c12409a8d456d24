"""The JSON of requests and answers over HTTP.

Owns their fields, bounds and what is null when popular items answer. Which status goes with them is gateway.py's.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.answers import ScoredItem
from serving.request_flow import Reply
from serving.wire import MAX_AT_MS, MAX_K, MAX_TEXT_BYTES


class OnlyItems(BaseModel):
    """Which items may be in the answer: all that these say of an item must hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    categories: dict[str, list[str]] = {}
    allowed_ids: list[str] | None = None
    denied_ids: list[str] = []


class RecommendRequest(BaseModel):
    """The body of POST /v1/recommend."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query_id: Annotated[str, Field(min_length=1, max_length=256)]
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    requested_at_ms: Annotated[int, Field(ge=0, le=MAX_AT_MS)] | None = None
    text: Annotated[str, Field(max_length=MAX_TEXT_BYTES // 4)] | None = None
    with_candidates: bool = False
    only: OnlyItems | None = None


class RecommendedItem(BaseModel):
    """One place of the answer; what popular items do not have is null, as is the probability of what was not ranked."""

    item_id: str
    rank: int
    score: float | None
    retrieval_score: float | None
    retrieval_rank: int | None
    probability: float | None
    title: str | None


class Candidate(BaseModel):
    """One retrieved item, with its score there."""

    item_id: str
    retrieval_score: float


class RecommendResponse(BaseModel):
    """The answer to POST /v1/recommend."""

    request_id: str
    query_id: str
    items: list[RecommendedItem]
    candidates: list[Candidate] | None
    source: Literal["model", "fallback"]
    fallback_reason: str | None
    release_id: str
    delta: int
    changes: int
    stage_ms: dict[str, float]
    total_ms: float


class HealthResponse(BaseModel):
    """The answer to GET /healthz.

    `status` is `degraded` while the fallback answers everything; `delta` and `changes` are the newest beside the
    release, which servers take with their next request: each answer names its own.
    """

    status: Literal["ok", "degraded"]
    engine_ready: bool
    mode: str
    release_id: str
    delta: int
    changes: int


def response_of(
    reply: Reply, *, request_id: str, titles: Mapping[str, str], with_candidates: bool
) -> RecommendResponse:
    """A reply in the caller's terms.

    Args:
        reply: of the request flow.
        request_id: the caller's or ours.
        titles: what a person calls an item, by its id.
        with_candidates: whether the caller asked for them.
    """
    items = []
    for rank, item in enumerate(reply.items, start=1):
        scored = item if isinstance(item, ScoredItem) else None
        item_id = item.item_id if isinstance(item, ScoredItem) else item
        items.append(
            RecommendedItem(
                item_id=item_id,
                rank=rank,
                score=scored.score if scored else None,
                retrieval_score=scored.retrieval_score if scored else None,
                retrieval_rank=scored.retrieval_rank if scored else None,
                probability=scored.probability if scored else None,
                title=titles.get(item_id),
            )
        )
    candidates = [Candidate(item_id=item_id, retrieval_score=score) for item_id, score in reply.candidates]
    return RecommendResponse(
        request_id=request_id,
        query_id=reply.query_id,
        items=items,
        candidates=candidates if with_candidates else None,
        source=reply.source,
        fallback_reason=reply.fallback_reason,
        release_id=reply.release_id,
        delta=reply.delta,
        changes=reply.changes,
        stage_ms=dict(reply.stage_ms),
        total_ms=reply.total_ms,
    )
