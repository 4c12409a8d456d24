"""The gateway as an application, with features and an engine that do as a test says."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi.testclient import TestClient

from features.transforms import QueryFeatures
from serving.answers import STAGES, Answer, ScoredItem
from serving.client import AsyncReread
from serving.errors import (
    ServingError,
)
from serving.fallback import PopularityFallback
from serving.gateway import create_app
from serving.item_filter import ItemFilter
from serving.served_log import ServedLog
from serving.settings import GatewaySettings

SETTINGS = GatewaySettings(release_dir=Path("r"), online_store_dir=Path("s"), deadline_ms=5000.0, max_body_bytes=1024)
JSON = {"content-type": "application/json"}
POPULAR = [f"p{place}" for place in range(200)]
SPEC = SimpleNamespace(names=lambda side, kind: ("genres",))
ANSWER = Answer(
    items=(ScoredItem("i2", 0.75, 1.5, 2, 0.25), ScoredItem("i1", 0.5, 2.5, 1)),
    candidates=(("i1", 2.5), ("i2", 1.5)),
    release_id="r7",
    delta=3,
    changes=4,
    stage_ms=dict.fromkeys(STAGES, 0.5),
)


class FakeFeatures:
    """Knows the query `q`, whose history is p0, p2."""

    def __init__(self, *, before: Callable[[], None] = lambda: None) -> None:
        self.spec_hash = "spec-1"
        self.before = before

    def read(self, query_ids: list[str], *, requested_at_ms: list[int]) -> tuple[QueryFeatures, list[bool]]:
        self.before()
        known = query_ids == ["q"]
        history = ["p0", "p2"] if known else []
        features = QueryFeatures(
            history_item_ids=[history],
            history_events=[["rating"] * len(history)],
            history_values=[[1.0] * len(history)],
            history_at_ms=[[1] * len(history)],
            texts=[""],
            categories=[["F"]],
            numbers=[[math.nan]],
            requested_at_ms=requested_at_ms,
        )
        return features, [known]


class FakeEngine:
    """Answers, or raises; reads the features again first if it is told to."""

    def __init__(
        self, *, error: ServingError | None = None, answer: Answer = ANSWER, reads_again: bool = False
    ) -> None:
        self.error = error
        self.answer = answer
        self.reads_again = reads_again
        self.asked: list[dict[str, Any]] = []
        self.is_closed = False

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
        self.asked.append(
            {
                "k": k,
                "spec_hash": spec_hash,
                "deadline_s": deadline_s,
                "request_id": request_id,
                "queries": queries,
                "only": only,
            }
        )
        if self.reads_again and reread is not None:
            await reread()
        if self.error:
            raise self.error
        return [self.answer]

    async def is_ready(self) -> bool:
        return self.error is None

    async def close(self) -> None:
        self.is_closed = True


@contextmanager
def gateway(
    *,
    engine: FakeEngine | None = None,
    features: FakeFeatures | None = None,
    served_log: ServedLog | None = None,
    settings: GatewaySettings = SETTINGS,
) -> Iterator[TestClient]:
    app = create_app(
        settings,
        features=features or FakeFeatures(),
        engine=engine or FakeEngine(),
        fallback=PopularityFallback(item_ids=POPULAR),
        release=lambda: SimpleNamespace(
            release_id="r6", titles={"i1": "Brazil (1985)", "p1": "Alien (1979)"}, delta=5, changes=8, spec=SPEC
        ),
        served_log=served_log,
    )
    with TestClient(app) as client:
        yield client
