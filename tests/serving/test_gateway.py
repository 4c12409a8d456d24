import dataclasses
import json
import logging
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.answers import STAGES, Answer, ScoredItem
from serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestFailed,
    ServerUnavailable,
    ServingError,
    SpecMismatch,
)
from serving.item_filter import ItemFilter
from serving.served_log import ServedLog, read_served_log
from serving.settings import GatewaySettings, ServedLogSettings
from tests.serving.gateway_app import ANSWER, JSON, FakeEngine, FakeFeatures, gateway


def test_a_known_query_gets_the_models_answer() -> None:
    engine = FakeEngine()
    with gateway(engine=engine) as client:
        response = client.post(
            "/v1/recommend", json={"query_id": "q", "k": 2, "requested_at_ms": 5}, headers={"x-request-id": "abc-1"}
        )

    assert response.status_code == 200
    assert response.headers["x-request-id"] == "abc-1"
    body = response.json()
    assert body["items"] == [
        {
            "item_id": "i2",
            "rank": 1,
            "score": 0.75,
            "retrieval_score": 1.5,
            "retrieval_rank": 2,
            "probability": 0.25,
            "title": None,
        },
        {
            "item_id": "i1",
            "rank": 2,
            "score": 0.5,
            "retrieval_score": 2.5,
            "retrieval_rank": 1,
            "probability": None,
            "title": "Brazil (1985)",
        },
    ]
    assert {
        key: body[key]
        for key in ("request_id", "query_id", "source", "fallback_reason", "release_id", "delta", "changes")
    } == {
        "request_id": "abc-1",
        "query_id": "q",
        "source": "model",
        "fallback_reason": None,
        "release_id": "r7",
        "delta": 3,
        "changes": 4,
    }
    assert body["candidates"] is None
    assert set(body["stage_ms"]) == {"online_features", *STAGES}
    assert body["total_ms"] >= body["stage_ms"]["online_features"] >= 0.0
    (asked,) = engine.asked
    assert asked["k"] == 2
    assert asked["spec_hash"] == "spec-1"
    assert asked["request_id"] == "abc-1"
    assert asked["queries"].requested_at_ms == [5]
    assert 0.0 < asked["deadline_s"] <= 5.0


def test_candidates_come_on_request() -> None:
    with gateway() as client:
        body = client.post("/v1/recommend", json={"query_id": "q", "with_candidates": True}).json()

    assert body["candidates"] == [
        {"item_id": "i1", "retrieval_score": 2.5},
        {"item_id": "i2", "retrieval_score": 1.5},
    ]


def test_an_unknown_query_gets_popular_items_marked_so() -> None:
    engine = FakeEngine()
    with gateway(engine=engine) as client:
        response = client.post("/v1/recommend", json={"query_id": "nobody", "k": 3})

    body = response.json()
    assert response.status_code == 200
    assert (body["source"], body["fallback_reason"], body["release_id"]) == ("fallback", "unknown_query", "r6")
    assert [item["item_id"] for item in body["items"]] == ["p0", "p1", "p2"]
    assert body["items"][1] == {
        "item_id": "p1",
        "rank": 2,
        "score": None,
        "retrieval_score": None,
        "retrieval_rank": None,
        "probability": None,
        "title": "Alien (1979)",
    }
    assert engine.asked == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ServerUnavailable("away"), "model_unavailable"),
        (DeadlineExceeded("late"), "deadline_exceeded"),
        (RequestFailed("inside"), "model_failed"),
        (SpecMismatch("a and b"), "spec_mismatch"),
        (InvalidRequest(field="history_items", message="too long"), "features_refused"),
    ],
)
def test_when_the_model_cannot_answer_popular_items_do(
    error: ServingError, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway(engine=FakeEngine(error=error)) as client, caplog.at_level(logging.WARNING):
        response = client.post("/v1/recommend", json={"query_id": "q", "k": 3})

    body = response.json()
    assert response.status_code == 200
    assert (body["source"], body["fallback_reason"]) == ("fallback", reason)
    assert [item["item_id"] for item in body["items"]] == ["p1", "p3", "p4"]  # without the history, p0 and p2
    assert str(error) in caplog.text


def test_an_empty_answer_is_filled_by_popular_items() -> None:
    empty = Answer(items=(), candidates=(), release_id="r7", delta=0, stage_ms={})
    with gateway(engine=FakeEngine(answer=empty)) as client:
        body = client.post("/v1/recommend", json={"query_id": "q"}).json()

    assert (body["source"], body["fallback_reason"], len(body["items"])) == ("fallback", "nothing_retrieved", 10)


def test_a_score_that_is_no_number_is_the_models_failure() -> None:
    broken = dataclasses.replace(ANSWER, items=(ScoredItem("i2", math.nan, 1.5, 2),))
    with gateway(engine=FakeEngine(answer=broken)) as client:
        response = client.post("/v1/recommend", json={"query_id": "q"})

    assert response.status_code == 200
    assert response.json()["fallback_reason"] == "model_failed"


def test_a_broken_store_still_leaves_an_answer() -> None:
    def fail() -> None:
        raise OSError("disk I/O error")

    with gateway(features=FakeFeatures(before=fail)) as client:
        response = client.post("/v1/recommend", json={"query_id": "q"})

    assert response.status_code == 200
    assert response.json()["fallback_reason"] == "features_unavailable"


def test_a_store_that_hangs_costs_the_deadline_and_no_more() -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    settings = GatewaySettings(release_dir=Path("r"), online_store_dir=Path("s"), deadline_ms=50.0)
    with gateway(features=FakeFeatures(before=hang), settings=settings) as client:
        body = client.post("/v1/recommend", json={"query_id": "q"}).json()
        go_on.set()

    assert body["fallback_reason"] == "features_deadline_exceeded"


@pytest.mark.parametrize(("breaks", "source"), [(False, "model"), (True, "fallback")])
def test_features_are_read_again_when_the_engine_asks(breaks: bool, source: str) -> None:
    reads: list[int] = []

    def read() -> None:
        reads.append(1)
        if breaks and len(reads) == 2:
            raise OSError("gone")

    with gateway(features=FakeFeatures(before=read), engine=FakeEngine(reads_again=True)) as client:
        body = client.post("/v1/recommend", json={"query_id": "q"}).json()

    assert len(reads) == 2
    assert body["source"] == source
    assert body["fallback_reason"] == ("model_failed" if breaks else None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query_id": "q", "k": 0}, "k"),
        ({"query_id": "q", "k": 10_000}, "k"),
        ({"query_id": "q", "k": "5"}, "k"),
        ({"query_id": "q", "k": True}, "k"),
        ({"query_id": "q", "k": 2.5}, "k"),
        ({"query_id": "q", "K": 5}, "K"),
        ({}, "query_id"),
        ({"query_id": ""}, "query_id"),
        ({"query_id": 196}, "query_id"),
        ({"query_id": "x" * 257}, "query_id"),
        ({"query_id": "\ud800"}, "query_id"),
        ({"query_id": "q", "requested_at_ms": -1}, "requested_at_ms"),
        ({"query_id": "q", "requested_at_ms": 1e300}, "requested_at_ms"),
        ({"query_id": "q", "with_candidates": "yes"}, "with_candidates"),
        ([], "body"),
        ("q", "body"),
        (None, "body"),
    ],
)
def test_bad_input_is_refused_by_the_name_of_its_field(body: Any, field: str) -> None:
    engine = FakeEngine()
    with gateway(engine=engine) as client:
        response = client.post("/v1/recommend", content=json.dumps(body), headers=JSON)

    assert response.status_code == 422
    assert response.json()["error"]["field"] == field
    assert response.json()["error"]["message"]
    assert engine.asked == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"query_id": "q", "k": NaN}', b"[" * 1000])
def test_a_body_that_is_no_json_is_refused(content: bytes) -> None:
    with gateway() as client:
        response = client.post("/v1/recommend", content=content, headers=JSON)

    assert response.status_code == 422
    assert response.json()["error"]["field"] in ("body", "k")


def test_a_body_that_is_too_large_is_refused_unparsed() -> None:
    with gateway() as client:
        declared = client.post("/v1/recommend", content=b" " * 1025)
        streamed = client.post("/v1/recommend", content=iter([b" " * 600, b" " * 600]))
        allowed = client.post("/v1/recommend", content=json.dumps({"query_id": "q"}).ljust(1024), headers=JSON)

    assert (declared.status_code, streamed.status_code, allowed.status_code) == (413, 413, 200)
    assert "1024 bytes" in declared.json()["error"]["message"]


def test_other_errors_have_the_same_form() -> None:
    with gateway() as client:
        response = client.get("/v1/recommend", headers={"x-request-id": "abc"})

    assert response.status_code == 405
    assert response.json() == {"request_id": "abc", "error": {"field": None, "message": "Method Not Allowed"}}


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "line\\nfeed", "<script>"])
def test_a_request_id_that_is_unfit_for_a_log_is_replaced(given: str) -> None:
    with gateway() as client:
        response = client.post("/v1/recommend", json={"query_id": "q"}, headers={"x-request-id": given})

    made = response.headers["x-request-id"]
    assert made != given
    assert len(made) == 32
    assert response.json()["request_id"] == made


@pytest.mark.parametrize(
    ("error", "status", "is_ready"), [(None, "ok", True), (ServerUnavailable("away"), "degraded", False)]
)
def test_health_tells_whether_the_engine_answers(error: ServingError | None, status: str, is_ready: bool) -> None:
    with gateway(engine=FakeEngine(error=error)) as client:
        response = client.get("/healthz")

    assert response.status_code == 200
    assert response.json() == {
        "status": status,
        "engine_ready": is_ready,
        "mode": "triton",
        "release_id": "r6",
        "delta": 5,
        "changes": 8,
    }


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({"categories": {"genres": ["Drama"]}}, ItemFilter(categories=(("genres", ("Drama",)),))),
        ({"allowed_ids": [], "denied_ids": ["i1"]}, ItemFilter(allowed_ids=(), denied_ids=("i1",))),
        ({}, ItemFilter()),
        (None, None),
    ],
)
def test_a_filter_reaches_the_engine(only: dict[str, Any] | None, expected: ItemFilter | None) -> None:
    engine = FakeEngine()
    with gateway(engine=engine) as client:
        assert client.post("/v1/recommend", json={"query_id": "q", "only": only}).status_code == 200
    assert engine.asked[0]["only"] == expected


@pytest.mark.parametrize(
    ("only", "field"),
    [
        ({"categories": {"size": ["XL"]}}, "only"),
        ({"categories": {"genres": "Drama"}}, "only.categories.genres"),
        ({"categories": ["genres"]}, "only.categories"),
        ({"allowed": ["i1"]}, "only.allowed"),
        ({"allowed_ids": [1]}, "only.allowed_ids.0"),
    ],
)
def test_a_filter_of_another_form_is_refused_before_any_work(only: dict[str, Any], field: str) -> None:
    engine = FakeEngine()
    with gateway(engine=engine) as client:
        response = client.post("/v1/recommend", json={"query_id": "q", "only": only})
    assert (response.status_code, response.json()["error"]["field"]) == (422, field)
    assert engine.asked == []


def test_every_answer_is_kept_with_what_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    with gateway(served_log=ServedLog(settings=ServedLogSettings(path=path))) as client:
        client.post("/v1/recommend", json={"query_id": "q", "requested_at_ms": 5}, headers={"x-request-id": "one"})
        client.post("/v1/recommend", json={"query_id": "nobody", "k": 2})
        client.post("/v1/recommend", json={"query_id": "q", "k": 0})

    model, fallback = read_served_log(path)  # the refused one was not answered
    assert (model["request_id"], model["source"], model["release_id"]) == ("one", "model", "r7")
    assert model["spec_hash"] == "spec-1"
    assert model["requested_at_ms"] == 5
    assert model["features"]["history_item_ids"] == [["p0", "p2"]]
    assert model["features"]["numbers"] == [[None]]
    assert model["answer"]["delta"] == 3
    assert model["answer"]["candidates"] == [["i1", 2.5], ["i2", 1.5]]
    assert model["item_ids"] == ["i2", "i1"]
    assert (fallback["source"], fallback["fallback_reason"]) == ("fallback", "unknown_query")
    assert fallback["item_ids"] == ["p0", "p1"]
    assert fallback["answer"] is None


def test_the_engine_is_closed_with_the_application() -> None:
    engine = FakeEngine()
    with gateway(engine=engine):
        assert not engine.is_closed

    assert engine.is_closed
