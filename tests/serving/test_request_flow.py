import asyncio
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from features.transforms import QueryFeatures
from serving.answers import STAGES, Answer, ScoredItem
from serving.client import AsyncReread
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
from serving.request_flow import Reply, RequestFlow
from serving.served_log import ServedLog, read_served_log
from serving.settings import ServedLogSettings


class Store:
    """Knows the query `known`, who had p1."""

    spec_hash = "spec"

    def __init__(self, *, error: Exception | None = None) -> None:
        self.error = error

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        if self.error:
            raise self.error
        known = [query_id == "known" for query_id in query_ids]
        history = [["p1"] if one else [] for one in known]
        features = QueryFeatures(
            history_item_ids=history,
            history_events=[["rating"] * len(own) for own in history],
            history_values=[[1.0] * len(own) for own in history],
            history_at_ms=[[0] * len(own) for own in history],
            texts=["" for _ in known],
            categories=[[] for _ in known],
            numbers=[[] for _ in known],
            requested_at_ms=requested_at_ms,
        )
        return features, known


class Engine:
    """Answers with one item of the given score, or raises."""

    def __init__(self, *, score: float = 1.0, error: ServingError | None = None, num_items: int = 1) -> None:
        self.score, self.error, self.num_items = score, error, num_items

    async def recommend(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        spec_hash: str,
        deadline_s: float,
        with_candidates: bool = False,
        only: ItemFilter | None = None,
        request_id: str = "",
        reread: AsyncReread | None = None,
    ) -> list[Answer]:
        if self.error:
            raise self.error
        items = tuple(ScoredItem(f"m{n}", self.score, 0.5, n + 1) for n in range(self.num_items))
        stage_ms = dict.fromkeys(STAGES, 1.0)
        return [Answer(items=items, candidates=(("m0", 0.5),), release_id="r2", delta=1, stage_ms=stage_ms)]

    async def is_ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def reply(*, store: Store, engine: Engine, query_id: str = "known") -> Reply:
    async def ask() -> Reply:
        fallback = PopularityFallback(item_ids=["p1", "p2", "p3"])
        flow = RequestFlow(features=store, engine=engine, fallback=fallback, release_id="r1", deadline_s=5.0)
        try:
            return await flow.reply(query_id=query_id, k=2, requested_at_ms=0, with_candidates=False, request_id="1")
        finally:
            await flow.close()

    return asyncio.run(ask())


def test_the_model_answers_a_known_query() -> None:
    answer = reply(store=Store(), engine=Engine())
    assert (answer.source, answer.fallback_reason, answer.release_id, answer.delta) == ("model", None, "r2", 1)
    assert answer.items == (ScoredItem("m0", 1.0, 0.5, 1),)
    assert answer.candidates == ()  # nobody asked for them


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeadlineExceeded("late"), "deadline_exceeded"),
        (ServerUnavailable("away"), "model_unavailable"),
        (RequestFailed("broken"), "model_failed"),
        (InvalidRequest(field="history_items", message="too long"), "features_refused"),
        (SpecMismatch("other"), "spec_mismatch"),
    ],
)
def test_whatever_keeps_the_model_from_answering_is_named_and_popular_items_answer(
    error: ServingError, reason: str
) -> None:
    answer = reply(store=Store(), engine=Engine(error=error))
    assert (answer.source, answer.fallback_reason, answer.release_id) == ("fallback", reason, "r1")
    assert answer.items == ("p2", "p3")  # without p1, which the query had


def test_an_unknown_query_gets_popular_items() -> None:
    answer = reply(store=Store(), engine=Engine(), query_id="nobody")
    assert (answer.source, answer.fallback_reason, answer.items) == ("fallback", "unknown_query", ("p1", "p2"))


def test_a_store_that_cannot_be_read_is_no_failure_of_the_request() -> None:
    answer = reply(store=Store(error=OSError("disk")), engine=Engine())
    assert (answer.source, answer.fallback_reason) == ("fallback", "features_unavailable")


@pytest.mark.parametrize(
    ("engine", "reason"), [(Engine(score=math.nan), "model_failed"), (Engine(num_items=0), "nothing_retrieved")]
)
def test_an_answer_that_is_none_is_replaced(engine: Engine, reason: str) -> None:
    assert reply(store=Store(), engine=engine).fallback_reason == reason


class GrowingStore(Store):
    """Its one query has an event more at each read."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        self.num_reads += 1
        features, known = super().read(query_ids, requested_at_ms=requested_at_ms)
        history = [[f"p{n}" for n in range(self.num_reads)]]
        return dataclasses.replace(features, history_item_ids=history), known


class RereadingEngine(Engine):
    """Asks for the features again, as where the server has another spec."""

    async def recommend(
        self, queries: QueryFeatures, *, reread: AsyncReread | None = None, **rest: Any
    ) -> list[Answer]:
        assert reread is not None
        queries, _ = await reread()
        return await super().recommend(queries, **rest)


def test_the_log_keeps_the_features_that_made_the_answer_and_not_those_read_before_them(tmp_path: Path) -> None:
    log_path = tmp_path / "served.jsonl"

    async def ask() -> None:
        flow = RequestFlow(
            features=GrowingStore(),
            engine=RereadingEngine(),
            fallback=PopularityFallback(item_ids=["p1"]),
            release_id="r1",
            deadline_s=5.0,
            served_log=ServedLog(settings=ServedLogSettings(path=log_path)),
        )
        await flow.reply(query_id="known", k=1, requested_at_ms=0, with_candidates=False, request_id="1", text="said")
        await flow.close()

    asyncio.run(ask())
    (kept,) = read_served_log(log_path)
    assert kept["features"]["history_item_ids"] == [["p0", "p1"]]
    assert (kept["text"], kept["features"]["texts"]) == ("said", ["said"])
    assert kept["answer"]["delta"] == 1
