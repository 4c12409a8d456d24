"""Ask a running server as its users do: over gRPC with features from the online store, and over HTTP by query id.

Owns what the demonstration prints and how latency is measured: one client, one request at a time, everything counted.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from evaluation.latency import summarise_ms
from features.dataset import Dataset
from features.stores.online_store import OnlineStore
from lifecycle.serve import Addresses
from serving.answers import Answer
from serving.client import RecommendClient
from serving.errors import InvalidRequest, RequestFailed, ServerUnavailable
from serving.release import Release

logger = logging.getLogger(__name__)

HISTORY_SHOWN, HELD_OUT_SHOWN = 5, 5
DEADLINE_S = 5.0


@dataclass(frozen=True)
class Ask:
    """A query at an instant, and what it then went for."""

    query_id: str
    requested_at_ms: int
    held_out: tuple[str, ...] = ()


def held_out_asks(dataset: Dataset) -> list[Ask]:
    """Every query at the time of its first test event, with the items of all of them."""
    events = dataset.events
    places = events.positives(["test"])
    queries, begins = np.unique(events.query_of(places), return_index=True)
    return [
        Ask(
            query_id=events.query_ids[query],
            requested_at_ms=int(events.at_ms[own[0]]),
            held_out=tuple(dict.fromkeys(events.item_ids[place] for place in own)),
        )
        for query, own in zip(queries, np.split(places, begins[1:]), strict=True)
    ]


def show(asks: Sequence[Ask], *, store: OnlineStore, release: Release, addresses: Addresses, k: int) -> str:
    """Histories and recommendations of some queries as text: over gRPC where Triton runs, and over HTTP."""
    lines = []
    for ask in asks:
        features, _ = store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])
        history, text = features.history_item_ids[0], features.texts[0]
        newest = [_title(release, item_id) for item_id in history[-HISTORY_SHOWN:]]
        said = [f"says {text!r}"] if text else []
        had = [f"history of {len(history)}, newest: {'; '.join(newest)}"] if history or not text else []
        lines.append(f"query {ask.query_id}: {', '.join([*said, *had])}")
        held_out = [_title(release, item_id) for item_id in ask.held_out]
        more = f" and {len(held_out) - HELD_OUT_SHOWN} more" if len(held_out) > HELD_OUT_SHOWN else ""
        lines.append(f"  held out: {'; '.join(held_out[:HELD_OUT_SHOWN])}{more}")
        by_grpc: list[str] = []
        if addresses.grpc is not None:
            with RecommendClient(address=addresses.grpc, deadline_s=DEADLINE_S) as client:
                answer = client.recommend(features, k=k, spec_hash=store.spec_hash)[0]
            by_grpc = [item.item_id for item in answer.items]
            lines.append(f"  gRPC {addresses.grpc}, release {answer.release_id}:")
            lines.extend(_item_lines(answer, release))
        reply = ask_http(ask.query_id, k=k, requested_at_ms=ask.requested_at_ms, http=addresses.http)
        by_http = [item["item_id"] for item in reply["items"]]
        same = (
            "the same list"
            if by_http == by_grpc
            else ", ".join(item["title"] or item["item_id"] for item in reply["items"])
        )
        lines.append(f"  HTTP {addresses.http}, source {reply['source']}, {reply['total_ms']:.1f} ms: {same}")
    return "\n".join(lines)


def ask_http(
    query_id: str, *, k: int, requested_at_ms: int | None, http: str, text: str | None = None
) -> dict[str, Any]:
    """One reply of the gateway.

    Raises:
        ServerUnavailable: nobody answers there.
        InvalidRequest: the gateway refused the request.
    """
    body = {"query_id": query_id, "k": k, "requested_at_ms": requested_at_ms, "text": text}
    try:
        response = httpx.post(f"http://{http}/v1/recommend", json=body, timeout=DEADLINE_S)
    except httpx.TransportError as error:
        raise ServerUnavailable(f"no gateway answers at {http} ({error}); start one: make serve") from error
    reply: dict[str, Any] = response.json()
    if response.status_code == 422:
        raise InvalidRequest(field=str(reply["error"]["field"]), message=str(reply["error"]["message"]))
    if response.status_code != 200:
        raise RequestFailed(f"the gateway answered {response.status_code}: {reply['error']['message']}")
    return reply


def reply_text(reply: dict[str, Any]) -> str:
    """A reply of the gateway for people."""
    reason = f" ({reply['fallback_reason']})" if reply["fallback_reason"] else ""
    lines = [f"query {reply['query_id']}: source {reply['source']}{reason}, release {reply['release_id']}"]
    for place, item in enumerate(reply["items"], start=1):
        scores = ""
        if item["score"] is not None:
            ranker = _ranker_text(item["score"], item["probability"])
            scores = f" {ranker}, retrieval rank {item['retrieval_rank']}"
        lines.append(f"{place:4d}. {item['title'] or item['item_id']:<44.44}{scores}")
    return "\n".join([*lines, f"{reply['total_ms']:.1f} ms in the gateway"])


def measure_latency(
    asks: Sequence[Ask], *, num_requests: int, store: OnlineStore, addresses: Addresses, k: int, warm_up: int = 20
) -> dict[str, dict[str, float]]:
    """p50 and p99 in ms of each stage, of the whole request over gRPC and of the whole over HTTP, at one client.

    Args:
        asks: made one after the other, again from the first where they are fewer than the requests.
        num_requests: that are measured.
        store: read for each gRPC request; its time is the stage `feature_store`.
        addresses: of the running server; without gRPC only HTTP is measured.
        k: list length.
        warm_up: requests that are made first and not counted.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    made = list(islice(cycle(asks), warm_up + num_requests))
    if addresses.grpc is not None:
        with RecommendClient(address=addresses.grpc, deadline_s=DEADLINE_S) as client:
            for number, ask in enumerate(tqdm(made, desc="gRPC requests", unit="request")):
                started = time.perf_counter()
                features, _ = store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])
                read = time.perf_counter()
                answer = client.recommend(features, k=k, spec_hash=store.spec_hash)[0]
                ended = time.perf_counter()
                if number >= warm_up:
                    spent["feature_store"].append(1000 * (read - started))
                    spent["grpc_total"].append(1000 * (ended - started))
                    for stage, milliseconds in answer.stage_ms.items():
                        spent[stage].append(milliseconds)
    with httpx.Client(base_url=f"http://{addresses.http}", timeout=DEADLINE_S) as http:
        for number, ask in enumerate(tqdm(made, desc="HTTP requests", unit="request")):
            started = time.perf_counter()
            body = {"query_id": ask.query_id, "k": k, "requested_at_ms": ask.requested_at_ms}
            reply = http.post("/v1/recommend", json=body).raise_for_status().json()
            if reply["source"] != "model":
                raise RequestFailed(f"query {ask.query_id} was answered by the fallback: {reply['fallback_reason']}")
            if number >= warm_up:
                spent["http_total"].append(1000 * (time.perf_counter() - started))
    return {stage: summarise_ms(np.array(milliseconds)) for stage, milliseconds in spent.items()}


def _title(release: Release, item_id: str) -> str:
    return release.titles.get(item_id) or item_id


def _ranker_text(score: float, probability: float | None) -> str:
    return f"ranker {score:7.3f}" + ("" if probability is None else f" (probability {probability:.3f})")


def _item_lines(answer: Answer, release: Release) -> list[str]:
    return [
        f"    {place:2d}. {_title(release, item.item_id):<44.44} {_ranker_text(item.score, item.probability)}   "
        f"retrieval {item.retrieval_score:7.3f} (rank {item.retrieval_rank})"
        for place, item in enumerate(answer.items, start=1)
    ]
