"""The HTTP side of serving: POST /v1/recommend and GET /healthz.

Owns statuses, request ids, what is refused before any work is done, and the process that serves it
(`python -m serving.gateway --config FILE.json`). How an answer is made is request_flow.py's, its JSON http_schema.py's.
"""

import argparse
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from features.errors import FeaturesError
from features.spec import FeatureSpec
from features.stores.online_store import OnlineStore
from serving.body_limit import BodyLimit
from serving.client import AsyncRecommendClient
from serving.engine import Engine, InProcessEngine
from serving.errors import InvalidRequest, ServingError
from serving.fallback import PopularityFallback
from serving.follower import ReleaseFollower
from serving.http_schema import HealthResponse, RecommendRequest, RecommendResponse, response_of
from serving.item_filter import ItemFilter
from serving.pipeline import Pipeline
from serving.release import Release
from serving.request_flow import OnlineFeatures, RequestFlow
from serving.served_log import ServedLog
from serving.settings import GatewaySettings, read_settings

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ServedRelease(Protocol):
    """What is told of a release; see `release.Release`."""

    @property
    def release_id(self) -> str:
        """Of its content."""
        ...

    @property
    def spec(self) -> FeatureSpec:
        """Of its features."""
        ...

    @property
    def titles(self) -> Mapping[str, str]:
        """What a person calls an item, by its id."""
        ...

    @property
    def delta(self) -> int:
        """Its newest."""
        ...

    @property
    def changes(self) -> int:
        """Number of the last change of its items."""
        ...


def create_app(
    settings: GatewaySettings,
    *,
    features: OnlineFeatures,
    engine: Engine,
    fallback: PopularityFallback,
    release: Callable[[], ServedRelease],
    served_log: ServedLog | None = None,
) -> FastAPI:
    """The application; it closes `engine` and `served_log` when it ends.

    Args:
        settings: limits and deadline.
        features: where the queries' features are read.
        engine: answers from them.
        fallback: answers without.
        release: the one that `fallback` is of, as it is now.
        served_log: keeps each answer.
    """
    flow = RequestFlow(
        features=features,
        engine=engine,
        fallback=fallback,
        release_id=release().release_id,
        deadline_s=settings.deadline_ms / 1000.0,
        served_log=served_log,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await flow.close()

    app = FastAPI(title="twostage", version="1", lifespan=lifespan)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(HTTPException, _fail)
    app.add_exception_handler(InvalidRequest, _refuse)

    @app.post("/v1/recommend")
    async def recommend(body: RecommendRequest, request: Request, response: Response) -> RecommendResponse:
        request_id = _request_id(request)
        response.headers[REQUEST_ID_HEADER] = request_id
        now_ms = time.time_ns() // 1_000_000
        only = None if body.only is None else ItemFilter.of(body.only.model_dump())
        if only is not None:
            only.check(release().spec)
        reply = await flow.reply(
            query_id=body.query_id,
            k=body.k,
            requested_at_ms=now_ms if body.requested_at_ms is None else body.requested_at_ms,
            with_candidates=body.with_candidates,
            request_id=request_id,
            text=body.text,
            only=only,
        )
        return response_of(reply, request_id=request_id, titles=release().titles, with_candidates=body.with_candidates)

    @app.get("/healthz")
    async def healthz() -> HealthResponse:
        is_ready, present = await engine.is_ready(), release()
        return HealthResponse(
            status="ok" if is_ready else "degraded",
            engine_ready=is_ready,
            mode=settings.mode,
            release_id=present.release_id,
            delta=present.delta,
            changes=present.changes,
        )

    return app


def _request_id(request: Request) -> str:
    """The caller's, if it is fit for a log line; else a new one."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """422 that names the first wrong field, without echoing what was sent."""
    if isinstance(error, InvalidRequest):
        return _error(request, status=422, field=error.field, message=str(error).removeprefix(f"{error.field}: "))
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    path = [str(part) for part in first["loc"][1:]]
    field = "body" if first.get("type") == "json_invalid" or not path else ".".join(path)
    return _error(request, status=422, field=field, message=str(first["msg"]))


async def _fail(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses; a body that breaks its parser is 400 there and bad input here."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    if status == 400:
        return _error(request, status=422, field="body", message=detail)
    return _error(request, status=status, field=None, message=detail)


def _error(request: Request, *, status: int, field: str | None, message: str) -> JSONResponse:
    request_id = _request_id(request)
    return JSONResponse(
        {"request_id": request_id, "error": {"field": field, "message": message}},
        status_code=status,
        headers={REQUEST_ID_HEADER: request_id},
    )


def open_app(settings: GatewaySettings) -> FastAPI:
    """The application over a release, an online store and the engine that the settings name.

    Raises:
        ServingError, FeaturesError: what is missing or damaged, see the errors.py of both.
    """
    engine: Engine
    following: Pipeline | ReleaseFollower
    if settings.mode == "inprocess":
        following = Pipeline.open(settings.release_dir, settings=settings.pipeline)
        engine = InProcessEngine(pipeline=following)
    else:
        following = ReleaseFollower(Release.open(settings.release_dir))
        engine = AsyncRecommendClient(address=settings.triton_address)
    return create_app(
        settings,
        features=OnlineStore.open(settings.online_store_dir),
        engine=engine,
        fallback=PopularityFallback(
            item_ids=following.release.popular_item_ids,
            recommends=lambda item_ids, only: following.release.recommends(item_ids, only),
        ),
        release=lambda: following.release,
        served_log=ServedLog(settings=settings.served_log) if settings.served_log else None,
    )


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first."""
    parser = argparse.ArgumentParser(description="HTTP gateway to recommendations")
    parser.add_argument("--config", type=Path, required=True, help="json file of serving.settings.GatewaySettings")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings(GatewaySettings, arguments.config)
        app = open_app(settings)
    except (ServingError, FeaturesError) as error:
        raise SystemExit(f"the gateway cannot start: {error}") from error
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        limit_concurrency=settings.max_concurrent,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
