import asyncio
import dataclasses
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from features.transforms import QueryFeatures
from serving import wire
from serving.answers import Answer, answers_of
from serving.child_process import free_ports
from serving.client import AsyncRecommendClient, RecommendClient
from serving.errors import DeadlineExceeded, InvalidRequest, ServerUnavailable, SpecMismatch
from serving.pipeline import Pipeline
from serving.triton import TritonServer


def row(queries: QueryFeatures, place: int) -> QueryFeatures:
    one = {field.name: getattr(queries, field.name)[place : place + 1] for field in dataclasses.fields(queries)}
    return QueryFeatures(**one)


def expected(pipeline: Pipeline, queries: QueryFeatures, *, k: int) -> list[Answer]:
    found = pipeline.recommend(queries, k=k, with_candidates=True)
    return answers_of(found)


def assert_same(got: Answer, wanted: Answer) -> None:
    assert [item.item_id for item in got.items] == [item.item_id for item in wanted.items]
    assert [item.retrieval_rank for item in got.items] == [item.retrieval_rank for item in wanted.items]
    for name in ("score", "retrieval_score", "probability"):
        # A missing probability is None, here NaN.
        ours, theirs = (np.array([getattr(i, name) for i in answer.items], dtype=float) for answer in (got, wanted))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert (got.release_id, got.delta) == (wanted.release_id, wanted.delta)


@pytest.fixture(scope="module")
def client(release_server: TritonServer) -> Iterator[RecommendClient]:
    with RecommendClient(address=release_server.grpc_address, deadline_s=30.0) as client:
        yield client


@pytest.fixture(scope="module")
def spec_hash(pipeline: Pipeline) -> str:
    return pipeline.release.spec.hash


def test_the_server_answers_what_the_pipeline_in_this_process_does(
    client: RecommendClient, pipeline: Pipeline, queries: QueryFeatures, spec_hash: str
) -> None:
    got = client.recommend(queries, k=10, spec_hash=spec_hash, with_candidates=True, request_id="walk-1")

    wanted = expected(pipeline, queries, k=10)
    assert len(got) == len(queries)
    for ours, theirs in zip(got, wanted, strict=True):
        assert len(ours.items) == 10
        assert_same(ours, theirs)
        assert [one[0] for one in ours.candidates] == [one[0] for one in theirs.candidates]
        np.testing.assert_allclose(
            [one[1] for one in ours.candidates], [one[1] for one in theirs.candidates], atol=1e-5
        )
        assert set(ours.stage_ms) == set(theirs.stage_ms)


def test_queries_asked_one_by_one_get_the_same_answers(
    client: RecommendClient, pipeline: Pipeline, queries: QueryFeatures, spec_hash: str
) -> None:
    for place, wanted in enumerate(expected(pipeline, queries, k=5)):
        (got,) = client.recommend(row(queries, place), k=5, spec_hash=spec_hash)
        assert_same(got, wanted)
        assert got.candidates == ()


def test_concurrent_requests_of_different_lengths_each_get_their_own_answer(
    client: RecommendClient, pipeline: Pipeline, queries: QueryFeatures, spec_hash: str
) -> None:
    wanted = {k: expected(pipeline, queries, k=k) for k in (3, 7)}
    asked = [(place % len(queries), 3 if place % 3 else 7) for place in range(48)]

    with ThreadPoolExecutor(8) as threads:
        got = list(
            threads.map(lambda one: client.recommend(row(queries, one[0]), k=one[1], spec_hash=spec_hash), asked)
        )

    for (place, k), answers in zip(asked, got, strict=True):
        assert_same(answers[0], wanted[k][place])


def test_a_list_as_long_as_allowed_is_given(client: RecommendClient, queries: QueryFeatures, spec_hash: str) -> None:
    (answer,) = client.recommend(row(queries, 0), k=wire.MAX_K, spec_hash=spec_hash)

    assert len({item.item_id for item in answer.items}) == wire.MAX_K


@pytest.mark.parametrize(("length", "is_allowed"), [(wire.MAX_HISTORY, True), (wire.MAX_HISTORY + 1, False)])
def test_a_history_as_long_as_allowed_is_answered_and_a_longer_one_refused(
    client: RecommendClient, queries: QueryFeatures, spec_hash: str, length: int, is_allowed: bool
) -> None:
    one = dataclasses.replace(
        row(queries, 0),
        history_item_ids=[["x" * wire.MAX_STRING_BYTES] * length],
        history_events=[["x" * wire.MAX_STRING_BYTES] * length],
        history_values=[[1.0] * length],
        history_at_ms=[[1] * length],
    )
    if is_allowed:
        assert client.recommend(one, k=1, spec_hash=spec_hash)[0].items
    else:
        with pytest.raises(InvalidRequest, match="history_items: expected at most 10000 entries, got 10001"):
            client.recommend(one, k=1, spec_hash=spec_hash)


@pytest.mark.parametrize("k", [0, -1, 101, 10_000])
def test_a_k_out_of_bounds_is_refused_and_the_server_goes_on(
    client: RecommendClient, queries: QueryFeatures, spec_hash: str, k: int
) -> None:
    with pytest.raises(InvalidRequest, match=f"k: expected 1 to 100, got {k}") as raised:
        client.recommend(row(queries, 0), k=k, spec_hash=spec_hash)

    assert raised.value.field == "k"
    assert client.recommend(row(queries, 0), k=1, spec_hash=spec_hash)[0].items


def test_a_bad_request_leaves_those_that_share_its_batch_alone(
    client: RecommendClient, pipeline: Pipeline, queries: QueryFeatures, spec_hash: str
) -> None:
    wanted = expected(pipeline, queries, k=4)[0]

    def one(place: int) -> Answer | InvalidRequest:
        try:
            return client.recommend(row(queries, 0), k=4 if place % 2 else 0, spec_hash=spec_hash)[0]
        except InvalidRequest as error:
            return error

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(one, range(32)))

    for place, answer in enumerate(got):
        if place % 2:
            assert isinstance(answer, Answer)
            assert_same(answer, wanted)
        else:
            assert isinstance(answer, InvalidRequest)
            assert answer.field == "k"


def test_more_queries_than_a_request_may_hold_are_refused(
    client: RecommendClient, queries: QueryFeatures, spec_hash: str
) -> None:
    nine = QueryFeatures(
        **{field.name: (getattr(queries, field.name) * 3)[:9] for field in dataclasses.fields(queries)}
    )

    with pytest.raises(InvalidRequest, match="batch-size must be <= 8"):
        client.recommend(nine, k=1, spec_hash=spec_hash)


def test_features_of_another_spec_are_refused_with_both_hashes(
    client: RecommendClient, queries: QueryFeatures, spec_hash: str
) -> None:
    with pytest.raises(SpecMismatch, match=f"{spec_hash}.*0123456789abcdef"):
        client.recommend(row(queries, 0), k=1, spec_hash="0123456789abcdef")


def test_features_of_another_spec_are_read_again_once(
    client: RecommendClient, queries: QueryFeatures, spec_hash: str
) -> None:
    hashes = iter([spec_hash, "never asked for"])
    (answer,) = client.recommend(row(queries, 0), k=1, spec_hash="old", reread=lambda: (row(queries, 0), next(hashes)))
    assert answer.items
    assert next(hashes) == "never asked for"

    calls = []

    def still_another() -> tuple[QueryFeatures, str]:
        calls.append(1)
        return row(queries, 0), "older"

    with pytest.raises(SpecMismatch):
        client.recommend(row(queries, 0), k=1, spec_hash="old", reread=still_another)
    assert len(calls) == 1


def test_a_server_that_does_not_answer_in_time_is_a_passed_deadline(
    release_server: TritonServer, queries: QueryFeatures, spec_hash: str
) -> None:
    with (
        RecommendClient(address=release_server.grpc_address, deadline_s=1e-4) as hurried,
        pytest.raises(DeadlineExceeded),
    ):
        hurried.recommend(queries, k=100, spec_hash=spec_hash)


def test_nobody_at_the_address_is_an_unavailable_server(queries: QueryFeatures) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"

    with RecommendClient(address=address) as client:
        assert not client.is_ready()
        with pytest.raises(ServerUnavailable, match=re.escape(address)):
            client.recommend(queries, k=1, spec_hash="")


def test_a_closed_client_says_so(release_server: TritonServer, queries: QueryFeatures, spec_hash: str) -> None:
    with RecommendClient(address=release_server.grpc_address) as client:
        assert client.is_ready()
    client.close()
    assert not client.is_ready()
    with pytest.raises(ServerUnavailable, match=f"client of {release_server.grpc_address} was closed: open another"):
        client.recommend(queries, k=1, spec_hash=spec_hash)


def test_the_client_of_an_event_loop_does_the_same(
    release_server: TritonServer, pipeline: Pipeline, queries: QueryFeatures, spec_hash: str
) -> None:
    async def reread() -> tuple[QueryFeatures, str]:
        return queries, spec_hash

    async def scenario() -> list[Answer]:
        client = AsyncRecommendClient(address=release_server.grpc_address)
        assert await client.is_ready()
        with pytest.raises(InvalidRequest, match="k: "):
            await client.recommend(queries, k=0, spec_hash=spec_hash, deadline_s=30.0)
        with pytest.raises(SpecMismatch):
            await client.recommend(queries, k=1, spec_hash="old", deadline_s=30.0)
        with pytest.raises(DeadlineExceeded):
            await client.recommend(queries, k=1, spec_hash=spec_hash, deadline_s=0.0)
        answers = await client.recommend(queries, k=10, spec_hash="old", deadline_s=30.0, reread=reread)
        await client.close()
        away = AsyncRecommendClient(address=f"127.0.0.1:{free_ports(1)[0]}")
        assert not await away.is_ready()
        with pytest.raises(ServerUnavailable):
            await away.recommend(queries, k=1, spec_hash=spec_hash, deadline_s=5.0)
        await away.close()
        return answers

    for ours, theirs in zip(asyncio.run(scenario()), expected(pipeline, queries, k=10), strict=True):
        assert_same(ours, theirs)


# What a client of another make may send: the tensors of a good request with one changed.
def _renamed(tensors: wire.Tensors) -> wire.Tensors:
    return {"K" if name == "k" else name: array for name, array in tensors.items()}


def _without_k(tensors: wire.Tensors) -> wire.Tensors:
    return {name: array for name, array in tensors.items() if name != "k"}


def _changed(name: str, array: NDArray[Any]) -> Any:
    return lambda tensors: {**tensors, name: array}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_renamed, "K"),
        (_without_k, "k"),
        (_changed("k", np.array([[5.0]], dtype=np.float32)), "k"),
        (_changed("k", np.array([[5]], dtype=np.int64)), "k"),
        (_changed("k", np.array([5], dtype=np.int32)), "k"),
        (_changed("k", np.array([[5, 5]], dtype=np.int32)), "k"),
        (_changed("history_values", np.zeros((1, 99), dtype=np.float32)), "history_values"),
        (_changed("history_at_ms", np.zeros((1, 0), dtype=np.int64)), "history_at_ms"),
        (_changed("query_categories", np.full((1, 50), b"x", dtype=object)), "query_categories"),
        (_changed("query_numbers", np.full((1, 50), 1.0, dtype=np.float32)), "query_numbers"),
        (_changed("requested_at_ms", np.array([[-1]])), "requested_at_ms"),
        (_changed("spec_hash", np.array([[b"x"]], dtype=object)), "spec_hash"),
        (_changed("history_items", np.array([[b"\xff\xfe", b"a", b"b"]], dtype=object)), "history_items"),
    ],
)
def test_a_wrong_tensor_is_an_invalid_argument_that_names_it(
    release_server: TritonServer, queries: QueryFeatures, spec_hash: str, change: Any, field: str
) -> None:
    good = wire.encode_request(row(queries, 0), k=5, with_candidates=False, spec_hash=spec_hash)
    datatypes = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "object": "BYTES", "bool": "BOOL"}

    def ask(tensors: wire.Tensors) -> Any:
        inputs = []
        for name, array in tensors.items():
            inputs.append(triton.InferInput(name, list(array.shape), datatypes[str(array.dtype)]))
            inputs[-1].set_data_from_numpy(array)
        with triton.InferenceServerClient(release_server.grpc_address) as client:
            return client.infer(wire.MODEL, inputs, client_timeout=30.0)

    with pytest.raises(InferenceServerException) as raised:
        ask(change(good))

    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert re.search(rf"\b{field}\b", str(raised.value.message()))
    assert ask(good).as_numpy("item_ids").shape == (1, 5)
