"""One query through the gateway, whatever happens: features, model, fallback, served log.

Owns which failure leads to which fallback. Knows nothing of HTTP (gateway.py) and of what the model does (pipeline.py).
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from features.transforms import QueryFeatures
from serving.answers import Answer, ScoredItem
from serving.engine import Engine
from serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestFailed,
    ServerUnavailable,
    ServingError,
    SpecMismatch,
)
from serving.fallback import PopularityFallback
from serving.item_filter import ItemFilter
from serving.served_log import ServedLog, ServedRecord

_log = logging.getLogger(__name__)

# The caller's part of a request was checked before, so what the model refuses is wrong with stored features.
_REASONS: Mapping[type[Exception], str] = {
    DeadlineExceeded: "deadline_exceeded",
    TimeoutError: "deadline_exceeded",
    ServerUnavailable: "model_unavailable",
    RequestFailed: "model_failed",
    InvalidRequest: "features_refused",
    SpecMismatch: "spec_mismatch",
}
READER_THREADS = 4


class OnlineFeatures(Protocol):
    """Where the newest features of queries are read; called from threads."""

    @property
    def spec_hash(self) -> str:
        """Of the FeatureSpec that the features are of."""
        ...

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        """Features of each query, and which of them are known."""
        ...


@dataclass(frozen=True)
class Reply:
    """What the caller gets.

    Attributes:
        items: with the model's scores, or (popular items) ids alone.
        fallback_reason: none if the model answered.
        total_ms: the whole time in the gateway.
    """

    query_id: str
    items: tuple[ScoredItem | str, ...]
    candidates: tuple[tuple[str, float], ...]
    source: Literal["model", "fallback"]
    fallback_reason: str | None
    release_id: str
    delta: int
    changes: int
    stage_ms: Mapping[str, float]
    total_ms: float


class RequestFlow:
    """Answers queries one by one.

    Args:
        features: where a query's features are read.
        engine: answers from features.
        fallback: answers without.
        release_id: of the release that the fallback's items are of.
        deadline_s: for one reply.
        served_log: keeps each reply.
    """

    def __init__(
        self,
        *,
        features: OnlineFeatures,
        engine: Engine,
        fallback: PopularityFallback,
        release_id: str,
        deadline_s: float,
        served_log: ServedLog | None = None,
    ) -> None:
        self.engine = engine
        self.release_id = release_id
        self._features = features
        self._fallback = fallback
        self._deadline_s = deadline_s
        self._served_log = served_log
        self._readers = ThreadPoolExecutor(max_workers=READER_THREADS, thread_name_prefix="features")

    async def close(self) -> None:
        """Let go of the engine, the threads and the log."""
        await self.engine.close()
        await asyncio.to_thread(self._readers.shutdown)
        if self._served_log:
            await asyncio.to_thread(self._served_log.close)

    async def reply(
        self,
        *,
        query_id: str,
        k: int,
        requested_at_ms: int,
        with_candidates: bool,
        request_id: str,
        text: str | None = None,
        only: ItemFilter | None = None,
    ) -> Reply:
        """Never fails for a reason that is not the caller's.

        Args:
            query_id: who asks.
            k: length of the list.
            requested_at_ms: when.
            with_candidates: whether the reply holds what was retrieved.
            request_id: for the logs.
            text: what the query says, in place of what the store knows; with it even an unknown query gets an answer
                from the model.
            only: which items may be in the reply, the fallback's too; None: all.
        """
        started = time.monotonic()
        queries, known, reason = await self._read(
            query_id, requested_at_ms=requested_at_ms, request_id=request_id, text=text
        )
        read_ms = (time.monotonic() - started) * 1000.0
        answer: Answer | None = None
        if queries is not None and known:
            answer, reason, queries = await self._ask(
                queries,
                query_id=query_id,
                text=text,
                k=k,
                with_candidates=with_candidates or self._served_log is not None,
                only=only,
                request_id=request_id,
                deadline_s=self._deadline_s - (time.monotonic() - started),
            )
        items: tuple[ScoredItem | str, ...]
        if answer is None:
            history = queries.history_item_ids[0] if queries is not None else []
            items = tuple(self._fallback.recommend(k=k, exclude=history, only=only))
        else:
            items = answer.items
        self._keep(
            request_id=request_id,
            query_id=query_id,
            requested_at_ms=requested_at_ms,
            text=text,
            only=only,
            reason=reason,
            queries=queries,
            answer=answer,
            items=items,
        )
        return Reply(
            query_id=query_id,
            items=items,
            candidates=answer.candidates if answer and with_candidates else (),
            source="fallback" if answer is None else "model",
            fallback_reason=reason,
            release_id=answer.release_id if answer else self.release_id,
            delta=answer.delta if answer else 0,
            changes=answer.changes if answer else 0,
            stage_ms={"online_features": read_ms, **(answer.stage_ms if answer else {})},
            total_ms=(time.monotonic() - started) * 1000.0,
        )

    async def _read(
        self, query_id: str, *, requested_at_ms: int, request_id: str, text: str | None
    ) -> tuple[QueryFeatures | None, bool, str | None]:
        """Features, whether the query is known, and why the fallback must answer if it must."""
        try:
            async with asyncio.timeout(self._deadline_s):
                queries, known = await asyncio.get_running_loop().run_in_executor(
                    self._readers, lambda: self._features.read([query_id], requested_at_ms=[requested_at_ms])
                )
        except TimeoutError:
            return None, False, "features_deadline_exceeded"
        except Exception:  # any store with any driver: an answer without features is better than none
            _log.exception("request %s: the online store cannot be read", request_id)
            return None, False, "features_unavailable"
        if text is not None:
            return replace(queries, texts=[text]), True, None
        return queries, known[0], None if known[0] else "unknown_query"

    async def _ask(
        self,
        queries: QueryFeatures,
        *,
        query_id: str,
        text: str | None,
        k: int,
        with_candidates: bool,
        only: ItemFilter | None,
        request_id: str,
        deadline_s: float,
    ) -> tuple[Answer | None, str | None, QueryFeatures]:
        """The model's answer, why there is none, and the features that it was asked with, which may be newer ones."""
        used = queries

        async def reread() -> tuple[QueryFeatures, str]:
            nonlocal used
            again, _, reason = await self._read(
                query_id, requested_at_ms=queries.requested_at_ms[0], request_id=request_id, text=text
            )
            if again is None:
                raise RequestFailed(f"the features could not be read again: {reason}")
            used = again
            return again, self._features.spec_hash

        try:
            async with asyncio.timeout(deadline_s):  # the engine keeps its own; reading again has none
                answers = await self.engine.recommend(
                    queries,
                    k=k,
                    spec_hash=self._features.spec_hash,
                    deadline_s=deadline_s,
                    with_candidates=with_candidates,
                    only=only,
                    request_id=request_id,
                    reread=reread,
                )
        except (ServingError, TimeoutError) as error:
            reason = _REASONS.get(type(error), "model_failed")
            _log.warning("request %s is answered by the fallback (%s): %s", request_id, reason, error)
            return None, reason, used
        answer = answers[0]
        if not answer.items:
            return None, "nothing_retrieved", used
        if not all(math.isfinite(item.score) for item in answer.items):
            _log.error("request %s: release %s gave a score that is no number", request_id, answer.release_id)
            return None, "model_failed", used
        return answer, None, used

    def _keep(
        self,
        *,
        request_id: str,
        query_id: str,
        requested_at_ms: int,
        text: str | None,
        only: ItemFilter | None,
        reason: str | None,
        queries: QueryFeatures | None,
        answer: Answer | None,
        items: tuple[ScoredItem | str, ...],
    ) -> None:
        if self._served_log is None:
            return
        self._served_log.append(
            ServedRecord(
                request_id=request_id,
                query_id=query_id,
                served_at_ms=time.time_ns() // 1_000_000,
                requested_at_ms=requested_at_ms,
                text=text,
                only=only,
                source="fallback" if answer is None else "model",
                fallback_reason=reason,
                spec_hash=self._features.spec_hash,
                release_id=answer.release_id if answer else self.release_id,
                features=queries,
                answer=answer,
                item_ids=tuple(item if isinstance(item, str) else item.item_id for item in items),
            )
        )
