import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError
from features.spec import DAY_MS, Feature, FeatureColumns, FeatureSpec, TextLayout

COLUMNS = FeatureColumns(
    query_categories=("gender", "occupation"),
    query_numbers=("age",),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title", "plot"),
    history_length=7,
    category_length=3,
    tick_days=2,
)
SPEC = COLUMNS.spec(text=TextLayout(), ranker_features=("towers_score", "year_difference"))


def through_json(spec: FeatureSpec) -> FeatureSpec:
    return FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))


def test_a_token_row_has_room_for_titles_text_and_three_special_tokens():
    # [CLS] 2 titles of 5 [SEP] 7 [SEP] -> 1 + 10 + 1 + 7 + 1 = 20
    assert TextLayout(history_items=2, history_tokens=5, candidate_tokens=7).length == 20


def test_columns_become_features_of_their_side_and_kind_in_the_order_given():
    assert SPEC.names("query", "category") == ("gender", "occupation")
    assert SPEC.names("query", "number") == ("age",)
    assert SPEC.names("item", "id") == ("item_id",)
    assert SPEC.names("item", "category") == ("genres",)
    assert SPEC.names("item", "number") == ("year",)
    assert SPEC.names("item", "text") == ("title", "plot")
    assert SPEC.names("ranker", "number") == ("towers_score", "year_difference")
    assert SPEC.names("ranker", "text") == ()


def test_lengths_come_from_the_columns_settings():
    assert SPEC.history_length == 7
    assert SPEC.length("item", "category") == 3
    assert SPEC.length("item", "text") == TextLayout().candidate_tokens
    assert SPEC.tick_ms == 2 * DAY_MS


def test_a_side_and_kind_without_features_has_length_one():
    assert FeatureSpec(features=(), text=TextLayout()).length("item", "category") == 1


def test_the_hash_is_the_sha256_of_the_spec_as_sorted_json():
    spec = FeatureSpec(
        features=(Feature("history", "query", "sequence", "int64", 3),),
        text=TextLayout(history_items=1, history_tokens=2, candidate_tokens=4),
    )
    canonical = (
        '{"features":[{"default":"","dtype":"int64","kind":"sequence","length":3,"name":"history","side":"query"}],'
        '"text":{"candidate_tokens":4,"history_items":1,"history_tokens":2},"tick_ms":86400000}'
    )
    # Written out: if this string has to change, every release and checkpoint made before is refused.
    assert spec.hash == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_equal_specs_have_equal_hashes():
    assert SPEC.hash == COLUMNS.spec(text=TextLayout(), ranker_features=("towers_score", "year_difference")).hash


CHANGES = {
    "a feature less": {"features": SPEC.features[:-1]},
    "a feature more": {"features": (*SPEC.features, Feature("x", "ranker", "number", "float32"))},
    "another order": {"features": SPEC.features[::-1]},
    "another name": {"features": (replace(SPEC.features[0], name="past"), *SPEC.features[1:])},
    "another side": {"features": (replace(SPEC.features[0], side="item"), *SPEC.features[1:])},
    "another kind": {"features": (replace(SPEC.features[0], kind="number"), *SPEC.features[1:])},
    "another dtype": {"features": (replace(SPEC.features[0], dtype="float32"), *SPEC.features[1:])},
    "another length": {"features": (replace(SPEC.features[0], length=8), *SPEC.features[1:])},
    "another default": {"features": (replace(SPEC.features[0], default="x"), *SPEC.features[1:])},
    "other titles": {"text": replace(SPEC.text, history_items=4)},
    "shorter titles": {"text": replace(SPEC.text, history_tokens=3)},
    "shorter texts": {"text": replace(SPEC.text, candidate_tokens=16)},
    "another tick": {"tick_ms": DAY_MS},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_changes_in_a_spec_changes_its_hash(change):
    assert replace(SPEC, **change).hash != SPEC.hash


def test_a_spec_survives_its_json_file():
    copy = through_json(SPEC)
    # Not compared by ==: a missing number's default is nan, which equals nothing.
    assert copy.hash == SPEC.hash
    assert repr(copy) == repr(SPEC)


features = st.builds(
    Feature,
    name=st.text(max_size=5),
    side=st.sampled_from(["query", "item", "ranker"]),
    kind=st.sampled_from(["id", "category", "number", "sequence", "text"]),
    dtype=st.sampled_from(["int64", "float32"]),
    length=st.integers(1, 100),
    default=st.one_of(st.text(max_size=3), st.floats()),
)
specs = st.builds(
    FeatureSpec,
    features=st.lists(features, max_size=4, unique_by=lambda f: (f.side, f.kind, f.name)).map(tuple),
    text=st.builds(TextLayout, history_items=st.integers(0, 5)),
    tick_ms=st.integers(1, 10 * DAY_MS),
)


@given(specs)
def test_any_spec_survives_its_json_file(spec):
    assert through_json(spec).hash == spec.hash


@given(specs, specs)
def test_specs_that_read_alike_hash_alike_and_others_do_not(one, other):
    assert (one.hash == other.hash) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    ("side", "kind", "length"), [("user", "id", 1), ("item", "embedding", 1), ("item", "category", 0)]
)
def test_a_feature_of_no_known_side_kind_or_length_is_refused(side, kind, length):
    with pytest.raises(FeaturesError, match=rf"feature 'x': expected a side of .*; got '{side}', '{kind}', {length}"):
        Feature("x", side, kind, "int64", length)


def test_a_name_that_comes_twice_is_refused_by_name():
    with pytest.raises(FeaturesError, match=r"\('item', 'number', 'year'\)\] come twice"):
        replace(COLUMNS, item_numbers=("year", "year")).spec(text=TextLayout(), ranker_features=())


def test_a_column_may_be_a_category_and_a_text():
    spec = replace(COLUMNS, item_texts=("title", "genres")).spec(text=TextLayout(), ranker_features=())
    assert spec.names("item", "category") == ("genres",)
    assert spec.names("item", "text") == ("title", "genres")
