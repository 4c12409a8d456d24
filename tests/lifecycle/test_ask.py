import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from features.dataset import Dataset
from features.spec import DAY_MS
from features.stores.online_store import OnlineStore
from lifecycle.ask import Ask, ask_http, held_out_asks, measure_latency, reply_text, show
from lifecycle.serve import Addresses
from serving.answers import STAGES
from serving.child_process import free_ports
from serving.errors import InvalidRequest, RequestFailed, ServerUnavailable
from serving.pipeline import Pipeline

REPLY = {
    "request_id": "r",
    "query_id": "7",
    "items": [
        {
            "item_id": "a",
            "rank": 1,
            "score": 1.5,
            "retrieval_score": 0.2,
            "retrieval_rank": 4,
            "probability": 0.25,
            "title": "Ran",
        },
        {
            "item_id": "b",
            "rank": 2,
            "score": -0.25,
            "retrieval_score": 0.9,
            "retrieval_rank": 1,
            "probability": None,
            "title": None,
        },
    ],
    "candidates": None,
    "source": "model",
    "fallback_reason": None,
    "release_id": "0123",
    "delta": 0,
    "stage_ms": {},
    "total_ms": 12.34,
}


class Gateway(HTTPServer):
    """Answers every request with one status and body, and keeps what was asked."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.status, self.body = status, body
        self.asked: list[dict[str, Any]] = []


class Answering(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        content = json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Into no test's output."""


@pytest.fixture
def gateway() -> Iterator[Callable[[int, dict[str, Any]], Gateway]]:
    started: list[tuple[Gateway, threading.Thread]] = []

    def start(status: int, body: dict[str, Any]) -> Gateway:
        server = Gateway(status, body)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def address(server: Gateway) -> str:
    return f"127.0.0.1:{server.server_port}"


def test_a_reply_is_asked_for_by_query_length_and_instant(gateway: Callable[..., Gateway]) -> None:
    server = gateway(200, REPLY)
    assert ask_http("7", k=2, requested_at_ms=123, http=address(server)) == REPLY
    ask_http("anybody", k=2, requested_at_ms=None, http=address(server), text="french film")
    assert server.asked == [
        {"query_id": "7", "k": 2, "requested_at_ms": 123, "text": None},
        {"query_id": "anybody", "k": 2, "requested_at_ms": None, "text": "french film"},
    ]


def test_where_nobody_answers_the_message_says_how_to_start_a_server() -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ServerUnavailable, match=rf"no gateway answers at {nobody} .*; start one: make serve"):
        ask_http("7", k=2, requested_at_ms=None, http=nobody)


def test_what_the_gateway_refuses_names_the_field(gateway: Callable[..., Gateway]) -> None:
    server = gateway(422, {"request_id": "r", "error": {"field": "k", "message": "should be at most 100"}})
    with pytest.raises(InvalidRequest, match="k: should be at most 100") as refused:
        ask_http("7", k=10_000, requested_at_ms=None, http=address(server))
    assert refused.value.field == "k"


def test_an_overloaded_gateway_is_no_answer(gateway: Callable[..., Gateway]) -> None:
    server = gateway(503, {"request_id": "r", "error": {"field": None, "message": "busy"}})
    with pytest.raises(RequestFailed, match="the gateway answered 503: busy"):
        ask_http("7", k=2, requested_at_ms=None, http=address(server))


def test_a_reply_for_people_has_titles_scores_and_time() -> None:
    lines = reply_text(REPLY).splitlines()
    assert lines[0] == "query 7: source model, release 0123"
    assert lines[1].split() == ["1.", "Ran", "ranker", "1.500", "(probability", "0.250),", "retrieval", "rank", "4"]
    assert lines[2].split() == ["2.", "b", "ranker", "-0.250,", "retrieval", "rank", "1"]  # its id for want of a title
    assert lines[3] == "12.3 ms in the gateway"


def test_an_answer_of_the_fallback_is_marked_with_its_reason_and_has_no_scores() -> None:
    item = {
        "item_id": "a",
        "rank": 1,
        "score": None,
        "retrieval_score": None,
        "retrieval_rank": None,
        "probability": None,
        "title": "Ran",
    }
    reply = {**REPLY, "items": [item], "source": "fallback", "fallback_reason": "unknown_query"}
    lines = reply_text(reply).splitlines()
    assert lines[0] == "query 7: source fallback (unknown_query), release 0123"
    assert lines[1].split() == ["1.", "Ran"]


def test_queries_are_asked_at_the_time_of_their_first_test_event(build_dataset: Callable[..., Dataset]) -> None:
    events = [("q1", "a", 1, "train"), ("q1", "b", 2, "test"), ("q2", "a", 1, "train"), ("q2", "b", 3, "train")]
    later = [("q3", "b", 4.5, "test"), ("q3", "a", 6, "test"), ("q3", "b", 7, "test")]
    asks = held_out_asks(build_dataset([*events, *later], item_ids=["a", "b"]))
    # q3 asks before its first test event, and goes for both items, each named once
    assert asks == [Ask("q1", 2 * DAY_MS, ("b",)), Ask("q3", round(4.5 * DAY_MS), ("b", "a"))]


@pytest.mark.timeout(600)
def test_what_is_shown_names_the_history_the_held_out_item_and_both_answers(
    served: Addresses, smoke_dataset: Dataset, smoke_store: OnlineStore, smoke_pipeline: Pipeline
) -> None:
    ask = next(one for one in held_out_asks(smoke_dataset) if one.query_id == "196")
    text = show(
        [ask],
        store=smoke_store,
        release=smoke_pipeline.release,
        addresses=served,
        k=3,
    )
    features, _ = smoke_store.read(["196"], requested_at_ms=[ask.requested_at_ms])
    wanted, titles = smoke_pipeline.recommend(features, k=3), smoke_pipeline.release.titles
    lines = text.splitlines()
    assert lines[0].startswith(f"query 196: history of {len(features.history_item_ids[0])}, newest: ")
    assert lines[0].endswith(titles[features.history_item_ids[0][-1]])
    assert lines[1].startswith("  held out: ")
    assert lines[2] == f"  gRPC {served.grpc}, release {smoke_pipeline.release.release_id}:"
    for line, item_id in zip(lines[3:6], wanted.item_ids[0], strict=True):
        assert titles[item_id][:40] in line
    assert lines[6].startswith(f"  HTTP {served.http}, source model")
    assert lines[6].endswith("the same list")


@pytest.mark.timeout(600)
def test_every_stage_is_measured_over_grpc_and_the_whole_over_http(
    served: Addresses, smoke_dataset: Dataset, smoke_store: OnlineStore
) -> None:
    asks = held_out_asks(smoke_dataset)[:30]  # of fewer queries than requests each asks several times
    measured = measure_latency(asks, num_requests=100, store=smoke_store, addresses=served, k=5, warm_up=2)
    assert set(measured) == {*STAGES, "feature_store", "grpc_total", "http_total"}
    assert all(0 < own["p50"] <= own["p99"] for own in measured.values())


def test_a_latency_is_not_measured_on_the_fallback(
    gateway: Callable[..., Gateway], build_dataset: Callable[..., Dataset]
) -> None:
    server = gateway(200, {**REPLY, "source": "fallback", "fallback_reason": "deadline_exceeded"})
    asks = held_out_asks(build_dataset([("q1", "a", 2, "test")], item_ids=["a"]))
    with pytest.raises(RequestFailed, match="query q1 was answered by the fallback: deadline_exceeded"):
        measure_latency(
            asks,
            num_requests=1,
            store=None,  # type: ignore[arg-type]
            addresses=Addresses(http=address(server), grpc=None),
            k=2,
        )


@pytest.mark.timeout(600)
def test_without_grpc_http_alone_is_measured(
    served: Addresses, smoke_dataset: Dataset, smoke_store: OnlineStore
) -> None:
    asks = held_out_asks(smoke_dataset)
    addresses = Addresses(http=served.http, grpc=None)
    measured = measure_latency(asks, num_requests=100, store=smoke_store, addresses=addresses, k=5, warm_up=0)
    assert set(measured) == {"http_total"}
