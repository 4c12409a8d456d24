from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from features.spec import Feature, FeatureSpec, TextLayout
from features.transforms import QueryFeatures
from serving import wire
from serving.answers import STAGES
from serving.batch import answer_batch
from serving.errors import InvalidRequest, RequestFailed
from serving.item_filter import ItemFilter
from serving.pipeline import Pipeline, Recommendations

SPEC = FeatureSpec(features=(Feature("history_item", "query", "sequence", "int64", length=5),), text=TextLayout())


class FakePipeline:
    """Recommends to each query its own first item, k times; breaks where that is `broken`."""

    def __init__(self) -> None:
        self.release = SimpleNamespace(spec=SPEC)
        self.calls: list[tuple[int, int, bool, ItemFilter | None]] = []

    def recommend(
        self, queries: QueryFeatures, *, k: int, with_candidates: bool = False, only: ItemFilter | None = None
    ) -> Recommendations:
        self.calls.append((len(queries), k, with_candidates, only))
        first = [history[0] for history in queries.history_item_ids]
        if "broken" in first:
            raise ZeroDivisionError("inside")
        scores = [np.arange(k, 0, -1, dtype=np.float32) for _ in first]
        return Recommendations(
            item_ids=[[f"{name}-{place}" for place in range(k)] for name in first],
            scores=scores,
            probabilities=scores,
            retrieval_scores=scores,
            retrieval_ranks=[np.arange(1, k + 1) for _ in first],
            candidate_ids=[[name] for name in first] if with_candidates else [],
            candidate_scores=[np.ones(1, dtype=np.float32) for _ in first] if with_candidates else [],
            stage_ms=dict.fromkeys(STAGES, 1.0),
            release_id="r1",
            delta=2,
            changes=3,
        )


def request(
    *first_items: str, k: int = 2, with_candidates: bool = False, only: ItemFilter | None = None
) -> wire.Tensors:
    num = len(first_items)
    queries = QueryFeatures(
        history_item_ids=[[name] for name in first_items],
        history_events=[["rating"]] * num,
        history_values=[[1.0]] * num,
        history_at_ms=[[1]] * num,
        texts=[""] * num,
        categories=[[]] * num,
        numbers=[[]] * num,
        requested_at_ms=[2] * num,
    )
    return wire.encode_request(queries, k=k, with_candidates=with_candidates, spec_hash=SPEC.hash, only=only)


@pytest.fixture
def fake() -> FakePipeline:
    return FakePipeline()


def answer(fake: FakePipeline, *requests: wire.Tensors) -> list[Any]:
    """First item of each query of each request, or the error."""
    responses = answer_batch(requests, pipeline=cast(Pipeline, fake))
    return [
        [one.items[0].item_id for one in wire.decode_answers(response)] if isinstance(response, dict) else response
        for response in responses
    ]


def test_requests_that_agree_share_one_call(fake: FakePipeline) -> None:
    assert answer(fake, request("a"), request("b", "c"), request("d")) == [["a-0"], ["b-0", "c-0"], ["d-0"]]
    assert fake.calls == [(4, 2, False, None)]


def test_requests_that_differ_are_grouped_and_answered_in_their_order(fake: FakePipeline) -> None:
    only = ItemFilter(denied_ids=("x",))
    requests = (
        request("a", k=2),
        request("b", k=3),
        request("c", k=2, with_candidates=True),
        request("d", k=3),
        request("e", k=3, only=only),
    )

    assert answer(fake, *requests) == [["a-0"], ["b-0"], ["c-0"], ["d-0"], ["e-0"]]
    assert fake.calls == [(1, 2, False, None), (2, 3, False, None), (1, 2, True, None), (1, 3, False, only)]


def test_a_refused_request_fails_alone(fake: FakePipeline) -> None:
    first, bad, last = answer(fake, request("a"), request("b", k=0), request("c"))

    assert (first, last) == (["a-0"], ["c-0"])
    assert isinstance(bad, InvalidRequest)
    assert bad.field == "k"
    assert fake.calls == [(2, 2, False, None)]


def test_a_request_that_breaks_the_pipeline_fails_alone(fake: FakePipeline) -> None:
    first, bad, last = answer(fake, request("a"), request("broken"), request("c"))

    assert (first, last) == (["a-0"], ["c-0"])
    assert isinstance(bad, RequestFailed)
    assert str(bad) == "ZeroDivisionError: inside"


def test_nothing_asked_is_nothing_answered(fake: FakePipeline) -> None:
    assert answer(fake) == []
