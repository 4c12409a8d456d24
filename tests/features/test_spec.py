import hashlib
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError
from features.spec import DAY_MS, MAX_STORED_HISTORY, Feature, FeatureSpec, TextLayout

SPEC = FeatureSpec(
    features=(
        Feature("history_item", "query", "sequence", "int64", origin="history", length=7),
        Feature("gender", "query", "category", "int64"),
        Feature("age", "query", "number", "float32", default=None),
        Feature("idle_days", "query", "number", "float32", origin="history", default=0.0),
        Feature("hour_sin", "query", "number", "float32", origin="request", default=0.0),
        Feature("genres", "item", "category", "int64", length=3),
        Feature("year", "item", "number", "float32", default=None),
        Feature("count_7d", "item", "number", "float32", origin="tick", default=0.0),
        Feature("year_difference", "ranker", "number", "float32", origin="retriever", default=0.0),
    ),
    text=TextLayout(query_tokens=2, history_items=2, history_tokens=5, candidate_tokens=7),
    tick_ms=2 * DAY_MS,
    stored_history=20,
    session_gap_minutes=45,
)


def through_json(spec: FeatureSpec) -> FeatureSpec:
    return FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))


def test_a_token_row_has_room_for_the_query_titles_text_and_three_special_tokens():
    # [CLS] 2 of the query, 2 titles of 5 [SEP] 7 [SEP] -> 1 + 2 + 10 + 1 + 7 + 1 = 22
    assert SPEC.text.length == 22
    assert SPEC.text.context_tokens == 12
    assert TextLayout(query_tokens=0, history_items=0, history_tokens=0, candidate_tokens=1).length == 4


@pytest.mark.parametrize("change", [{"query_tokens": -1}, {"history_items": -1}, {"history_tokens": -1}])
def test_a_layout_with_a_negative_part_is_refused(change):
    with pytest.raises(FeaturesError, match=r"features\.text: expected 0 or more query_tokens.*got \(.*-1.*\) and 17"):
        TextLayout(**change)


def test_a_layout_without_a_candidate_is_refused():
    with pytest.raises(FeaturesError, match=r"at least 1 candidate_tokens; got \(0, 3, 4\) and 0"):
        TextLayout(candidate_tokens=0)


def test_names_are_those_of_a_side_and_kind_and_of_the_origins_if_any_are_given():
    assert SPEC.names("query", "number") == ("age", "idle_days", "hour_sin")
    assert SPEC.names("query", "number", "column") == ("age",)
    assert SPEC.names("query", "number", "request", "history") == ("idle_days", "hour_sin")  # in stacking order
    assert SPEC.names("item", "number", "tick") == ("count_7d",)
    assert SPEC.names("ranker", "text") == ()


def test_a_length_is_the_longest_of_a_side_and_kind_and_one_where_there_is_none():
    assert SPEC.history_length == 7
    assert SPEC.length("item", "category") == 3
    assert SPEC.length("item", "id") == 1
    assert FeatureSpec(features=(), text=TextLayout()).history_length == 1


def test_the_hash_is_the_sha256_of_the_spec_as_sorted_json():
    spec = FeatureSpec(
        features=(Feature("history", "query", "sequence", "int64", origin="history", length=3),),
        text=TextLayout(query_tokens=5, history_items=1, history_tokens=2, candidate_tokens=4),
    )
    canonical = (
        '{"features":[{"default":"","dtype":"int64","kind":"sequence","length":3,"name":"history","origin":"history",'
        '"side":"query"}],"repeats":false,"session_gap_minutes":30,"stored_history":1000,'
        '"text":{"candidate_tokens":4,"history_items":1,"history_tokens":2,"query_tokens":5},"tick_ms":86400000}'
    )
    # Written out: if this string has to change, every release and checkpoint made before is refused.
    assert spec.hash == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_equal_specs_have_equal_hashes():
    assert replace(SPEC).hash == SPEC.hash


FIRST, *OTHERS = SPEC.features
CHANGES = {
    "a feature less": {"features": SPEC.features[:-1]},
    "a feature more": {"features": (*SPEC.features, Feature("x", "ranker", "number", "float32"))},
    "another order": {"features": SPEC.features[::-1]},
    "another name": {"features": (replace(FIRST, name="past"), *OTHERS)},
    "another side": {"features": (replace(FIRST, side="item"), *OTHERS)},
    "another kind": {"features": (replace(FIRST, kind="number"), *OTHERS)},
    "another dtype": {"features": (replace(FIRST, dtype="float32"), *OTHERS)},
    "another origin": {"features": (replace(FIRST, origin="column"), *OTHERS)},
    "another length": {"features": (replace(FIRST, length=8), *OTHERS)},
    "another default": {"features": (replace(FIRST, default="x"), *OTHERS)},
    "a longer query": {"text": replace(SPEC.text, query_tokens=3)},
    "other titles": {"text": replace(SPEC.text, history_items=4)},
    "shorter titles": {"text": replace(SPEC.text, history_tokens=3)},
    "shorter texts": {"text": replace(SPEC.text, candidate_tokens=16)},
    "another tick": {"tick_ms": DAY_MS},
    "a shorter store": {"stored_history": 19},
    "longer sessions": {"session_gap_minutes": 46},
    "repeats": {"repeats": True},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_changes_in_a_spec_changes_its_hash(change):
    assert replace(SPEC, **change).hash != SPEC.hash


def test_a_spec_survives_its_json_file():
    assert through_json(SPEC) == SPEC
    assert through_json(SPEC).hash == SPEC.hash


features = st.builds(
    Feature,
    name=st.text(max_size=5),
    side=st.sampled_from(["query", "item", "ranker"]),
    kind=st.sampled_from(["id", "category", "number", "sequence", "text"]),
    dtype=st.sampled_from(["int64", "float32"]),
    origin=st.sampled_from(["column", "history", "request", "tick", "retriever"]),
    length=st.integers(1, 100),
    default=st.one_of(st.none(), st.text(max_size=3), st.floats(allow_nan=False)),
)
specs = st.builds(
    FeatureSpec,
    features=st.lists(features, max_size=4, unique_by=lambda f: (f.side, f.kind, f.name)).map(tuple),
    text=st.builds(TextLayout, history_items=st.integers(0, 5)),
    tick_ms=st.integers(1, 10).map(lambda days: days * DAY_MS),
    stored_history=st.integers(100, MAX_STORED_HISTORY),
    session_gap_minutes=st.integers(1, 1000),
    repeats=st.booleans(),
)


@given(specs)
def test_any_spec_survives_its_json_file(spec):
    assert through_json(spec) == spec
    assert through_json(spec).hash == spec.hash


@given(specs, specs)
def test_specs_that_read_alike_hash_alike_and_others_do_not(one, other):
    assert (one.hash == other.hash) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"side": "user"}, r"expected side to be one of \('query', 'item', 'ranker'\); got 'user'"),
        ({"kind": "embedding"}, r"expected kind to be one of \('id', .*\); got 'embedding'"),
        ({"origin": "disk"}, r"expected origin to be one of \('column', .*\); got 'disk'"),
        ({"length": 0}, "expected a length of at least 1; got 0"),
    ],
)
def test_a_feature_of_no_known_side_kind_origin_or_length_is_refused(change, problem):
    with pytest.raises(FeaturesError, match=f"feature 'history_item': {problem}"):
        replace(FIRST, **change)


def test_a_name_that_comes_twice_is_refused_by_name():
    with pytest.raises(FeaturesError, match=r"\('item', 'category', 'genres'\)\] come twice"):
        replace(SPEC, features=(*SPEC.features, Feature("genres", "item", "category", "int64")))


def test_one_name_may_be_of_two_kinds_or_sides():
    more = Feature("genres", "item", "text", "int64"), Feature("genres", "query", "category", "int64")
    assert replace(SPEC, features=(*SPEC.features, *more)).names("item", "text") == ("genres",)


@pytest.mark.parametrize("stored_history", [-1, 0, 6, MAX_STORED_HISTORY + 1])
def test_a_store_shorter_than_the_history_or_too_long_is_refused(stored_history):
    with pytest.raises(
        FeaturesError, match=rf"at least the 7 of history_length and at most 10000; got {stored_history}"
    ):
        replace(SPEC, stored_history=stored_history)


def test_a_query_may_be_known_by_its_text_alone_and_has_no_history_then():
    assert FeatureSpec(features=(), text=TextLayout(), stored_history=0).stored_history == 0


def test_a_negative_store_is_refused_even_where_there_is_no_history():
    with pytest.raises(FeaturesError, match="got -1"):
        FeatureSpec(features=(), text=TextLayout(), stored_history=-1)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"tick_ms": 0}, r"got 0\.0 and 45"),
        ({"tick_ms": DAY_MS // 2}, r"got 0\.5 and 45"),
        ({"tick_ms": DAY_MS + 1}, rf"got {math.floor((DAY_MS + 1) / DAY_MS)}\.0"),
        ({"session_gap_minutes": 0}, r"got 2\.0 and 0"),
    ],
)
def test_a_tick_is_of_whole_days_and_a_session_ends(change, got):
    with pytest.raises(FeaturesError, match=f"expected tick_days and session_gap_minutes of at least 1; {got}"):
        replace(SPEC, **change)
