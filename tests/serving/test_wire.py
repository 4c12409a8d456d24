import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.spec import Feature, FeatureSpec, TextLayout
from features.transforms import QueryFeatures
from serving import wire
from serving.answers import STAGES, Answer, ScoredItem
from serving.errors import InvalidRequest

SPEC = FeatureSpec(
    features=(
        Feature("history_item", "query", "sequence", "int64", origin="history", length=5),
        Feature("gender", "query", "category", "int64"),
        Feature("job", "query", "category", "int64"),
        Feature("age", "query", "number", "float32"),
        Feature("idle_days", "query", "number", "float32", origin="history"),  # not sent: the server makes it
    ),
    text=TextLayout(),
)
QUERIES = QueryFeatures(
    history_item_ids=[["i1", "ü2"], []],
    history_events=[["view", "gekauft ü"], []],
    history_values=[[4.0, 0.5], []],
    history_at_ms=[[10, 2**40], []],
    texts=["", "ü?"],
    categories=[["F", ""], ["", "x"]],
    numbers=[[31.0], [math.nan]],
    requested_at_ms=[2**41, 0],
)


def tensors(queries: QueryFeatures = QUERIES, *, k: int = 10) -> wire.Tensors:
    return wire.encode_request(queries, k=k, with_candidates=True, spec_hash=SPEC.hash)


def changed(name: str, value: NDArray[Any]) -> wire.Tensors:
    return {**tensors(), name: value}


def test_a_request_has_the_tensors_of_the_config_in_its_shapes() -> None:
    encoded = tensors()

    assert list(encoded) == list(wire.INPUTS)
    assert encoded["history_items"].tolist() == [[b"i1", "ü2".encode()], [b"", b""]]  # padded on the left
    assert encoded["history_events"].tolist() == [[b"view", "gekauft ü".encode()], [b"", b""]]
    assert encoded["query_text"].tolist() == [[b""], ["ü?".encode()]]
    assert encoded["history_at_ms"].shape == (2, 2)
    assert encoded["k"].tolist() == [[10], [10]]


def test_an_empty_history_is_one_empty_id() -> None:
    only = QueryFeatures([[]], [[]], [[]], [[]], [""], [["", ""]], [[1.0]], [5])

    assert tensors(only)["history_items"].tolist() == [[b""]]
    assert wire.decode_request(tensors(only), spec=SPEC).queries == only


def test_queries_without_attributes_are_sent_as_tensors_of_no_width() -> None:
    spec = FeatureSpec(features=SPEC.features[:1], text=TextLayout())
    bare = dataclasses.replace(QUERIES, categories=[[], []], numbers=[[], []])
    encoded = wire.encode_request(bare, k=10, with_candidates=True, spec_hash=spec.hash)

    assert encoded["query_categories"].shape == encoded["query_numbers"].shape == (2, 0)
    assert wire.decode_request(encoded, spec=spec).queries == bare


def test_numbers_are_sent_in_single_precision_and_stay_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    wide = dataclasses.replace(QUERIES, history_values=[[1e300, -1e300], []], numbers=[[math.inf], [0.1]])
    queries = wire.decode_request(tensors(wide), spec=SPEC).queries

    assert queries.history_values == [[largest, -largest], []]
    assert queries.numbers == [[largest], [float(np.float32(0.1))]]


def test_decoding_gives_back_what_was_encoded() -> None:
    request = wire.decode_request(tensors(k=7), spec=SPEC)

    assert request.k == 7
    assert request.with_candidates
    assert math.isnan(request.queries.numbers[1][0])
    known = dataclasses.replace(QUERIES, numbers=[[31.0], [0.0]])
    assert dataclasses.replace(request.queries, numbers=[[31.0], [0.0]]) == known


@given(
    histories=st.lists(
        st.lists(
            st.tuples(
                st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
                st.text(st.characters(codec="utf-8"), max_size=5),
                st.floats(-1e6, 1e6, width=32),
                st.integers(0, wire.MAX_AT_MS),
            ),
            max_size=6,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_histories_survive_the_wire(histories: list[list[tuple[str, str, float, int]]]) -> None:
    num = len(histories)
    queries = QueryFeatures(
        history_item_ids=[[one[0] for one in history] for history in histories],
        history_events=[[one[1] for one in history] for history in histories],
        history_values=[[one[2] for one in history] for history in histories],
        history_at_ms=[[one[3] for one in history] for history in histories],
        texts=["?"] * num,
        categories=[["", "x"]] * num,
        numbers=[[1.0]] * num,
        requested_at_ms=[0] * num,
    )

    assert wire.decode_request(tensors(queries), spec=SPEC).queries == queries


LONG = wire.MAX_HISTORY + 1


@pytest.mark.parametrize(
    ("request_tensors", "field", "problem"),
    [
        (tensors(k=0), "k", "expected 1 to 100, got 0"),
        (tensors(k=10_000), "k", "expected 1 to 100, got 10000"),
        (changed("k", np.array([[1], [2]], dtype=np.int32)), "k", "one value for all queries"),
        (changed("with_candidates", np.array([[True], [False]])), "with_candidates", "one value for all queries"),
        (changed("requested_at_ms", np.array([[-1], [0]])), "requested_at_ms", "since 1970"),
        (changed("requested_at_ms", np.array([[2**62], [0]])), "requested_at_ms", "since 1970"),
        (changed("history_events", np.full((2, 1), b"a", dtype=object)), "history_events", r"got \[2, 1\]"),
        (changed("history_events", np.array([[b"a", b"\xff"], [b"", b""]], dtype=object)), "history_events", "UTF-8"),
        (changed("history_events", np.array([[b"a" * 1025] * 2] * 2, dtype=object)), "history_events", "1024 bytes"),
        (changed("query_text", np.array([[b"a"], [b"\xff"]], dtype=object)), "query_text", "UTF-8"),
        (changed("query_text", np.array([[b"a"], [b"a" * 8193]], dtype=object)), "query_text", "8192 bytes, got 8193"),
        (changed("history_values", np.zeros((2, 3), np.float32)), "history_values", r"shape of history_items \[2, 2\]"),
        (changed("history_at_ms", np.zeros((2, 1), np.int64)), "history_at_ms", r"got \[2, 1\]"),
        (changed("history_values", np.full((2, 2), np.nan, np.float32)), "history_values", "finite"),
        (changed("history_at_ms", np.full((2, 2), -5)), "history_at_ms", "since 1970"),
        (changed("history_items", np.array([[b"a", b""], [b"", b""]], dtype=object)), "history_items", "padding"),
        (changed("history_items", np.array([[b"a", b"\xff"], [b"", b""]], dtype=object)), "history_items", "UTF-8"),
        (changed("history_items", np.array([[b"a" * 1025] * 2] * 2, dtype=object)), "history_items", "1024 bytes"),
        (
            changed("query_categories", np.array([[b"F"], [b"F"]], dtype=object)),
            "query_categories",
            "expected 2 values",
        ),
        (changed("query_numbers", np.zeros((2, 0), np.float32)), "query_numbers", "expected 1 values a query"),
        (changed("query_numbers", np.full((2, 1), np.inf, np.float32)), "query_numbers", "finite"),
        (changed("spec_hash", np.array([[b"0123"], [b"0123"]], dtype=object)), "spec_hash", f"{SPEC.hash}.*0123"),
        (
            {
                **changed("history_items", np.full((2, LONG), b"a", dtype=object)),
                "history_events": np.full((2, LONG), b"a", dtype=object),
                "history_values": np.zeros((2, LONG), np.float32),
                "history_at_ms": np.zeros((2, LONG), np.int64),
            },
            "history_items",
            "at most 10000 entries, got 10001",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_field(
    request_tensors: wire.Tensors, field: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as raised:
        wire.decode_request(request_tensors, spec=SPEC)

    assert raised.value.field == field


def answer(*items: ScoredItem, candidates: tuple[tuple[str, float], ...] = ()) -> Answer:
    return Answer(items=items, candidates=candidates, release_id="r1", delta=3, stage_ms=dict.fromkeys(STAGES, 0.25))


def test_answers_of_different_lengths_survive_the_wire() -> None:
    answers = [
        answer(ScoredItem("a", 0.5, 2.0, 4, 0.125), ScoredItem("ü", 0.25, 3.0, 1), candidates=(("ü", 3.0),)),
        answer(ScoredItem("c", -0.5, 1.0, 1)),
        answer(),
    ]

    encoded = wire.encode_answers(answers)

    assert list(encoded) == list(wire.OUTPUTS)
    assert encoded["scores"].tolist() == [[0.5, 0.25], [-0.5, -math.inf], [-math.inf, -math.inf]]
    np.testing.assert_array_equal(encoded["probabilities"], [[0.125, math.nan], [math.nan] * 2, [math.nan] * 2])
    assert wire.decode_answers(encoded) == answers


def test_without_candidates_their_tensors_are_empty() -> None:
    encoded = wire.encode_answers([answer(ScoredItem("a", 0.5, 2.0, 4))])

    assert encoded["candidate_ids"].shape == (1, 0)
    assert encoded["candidate_scores"].shape == (1, 0)
