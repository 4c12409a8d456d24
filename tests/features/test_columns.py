from dataclasses import replace

import pytest

from features.columns import FeatureColumns
from features.context import CONTEXT
from features.errors import FeaturesError
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.statistics import STATISTICS

COLUMNS = FeatureColumns(
    query_categories=("gender", "occupation"),
    query_numbers=("age",),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title", "plot"),
    query_text="asked",
    history_length=7,
    stored_history=20,
    category_length=3,
    tick_days=2,
    session_gap_minutes=45,
    repeats=True,
)
NOTHING = FeatureColumns(query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=())
TEXT = TextLayout(query_tokens=6, history_items=2, history_tokens=5, candidate_tokens=8)


def spec_of(columns: FeatureColumns, text: TextLayout = TEXT) -> FeatureSpec:
    return columns.spec(text=text, ranker_features=("towers_score", "year_difference"))


def test_columns_become_features_of_their_side_and_kind_in_the_order_given():
    spec = spec_of(COLUMNS)
    assert spec.names("query", "category") == ("gender", "occupation")
    assert spec.names("query", "number", "column") == ("age",)
    assert spec.names("query", "text") == ("asked",)
    assert spec.names("item", "id") == ("item_id",)
    assert spec.names("item", "category") == ("genres",)
    assert spec.names("item", "number", "column") == ("year",)
    assert spec.names("item", "text") == ("title", "plot")
    assert spec.names("ranker", "number") == ("towers_score", "year_difference")


def test_every_feature_that_is_no_column_says_where_it_comes_from():
    spec = spec_of(COLUMNS)
    history = ("history_item", "history_event", "history_value", "history_age_days", "history_gap_days")
    assert spec.names("query", "sequence", "history") == history
    assert spec.names("query", "number", "history", "request") == tuple(CONTEXT)
    assert spec.names("query", "number", "request") == ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
    assert spec.names("item", "number", "tick") == STATISTICS
    assert spec.names("ranker", "number", "retriever") == spec.names("ranker", "number")


def test_lengths_and_rules_come_from_the_columns_settings():
    spec = spec_of(COLUMNS)
    assert (spec.history_length, spec.stored_history) == (7, 20)
    assert spec.length("item", "category") == 3
    assert spec.length("item", "text") == 8
    assert spec.length("query", "text") == 6
    assert (spec.tick_ms, spec.session_gap_minutes, spec.repeats) == (2 * DAY_MS, 45, True)


def test_a_dataset_without_columns_has_a_history_an_id_and_what_follows_from_them():
    spec = spec_of(NOTHING)
    assert {(feature.side, feature.kind) for feature in spec.features if feature.origin == "column"} == {("item", "id")}
    assert spec.text == replace(TEXT, query_tokens=0)


def test_what_queries_say_counts_only_where_there_is_a_column_of_it():
    silent = spec_of(replace(COLUMNS, query_text=""))
    assert silent.text.query_tokens == 0
    assert silent.names("query", "text") == ()
    # A column of which no token is read is no feature either.
    assert spec_of(COLUMNS, replace(TEXT, query_tokens=0)).names("query", "text") == ()


def test_without_a_stored_history_no_titles_are_read_and_its_arrays_keep_one_place():
    spec = spec_of(replace(COLUMNS, stored_history=0))
    assert (spec.stored_history, spec.history_length, spec.text.history_items) == (0, 1, 0)
    assert spec.text.context_tokens == 6  # of the query alone


def test_a_history_is_no_longer_than_what_is_stored_of_it():
    assert spec_of(replace(COLUMNS, history_length=50, stored_history=20)).history_length == 20


def test_a_negative_store_is_refused():
    with pytest.raises(FeaturesError, match=r"stored_history: .*got -1"):
        spec_of(replace(COLUMNS, stored_history=-1))


def test_equal_columns_make_equal_specs():
    assert spec_of(COLUMNS).hash == spec_of(replace(COLUMNS)).hash


def test_a_column_may_be_a_category_and_a_text():
    spec = spec_of(replace(COLUMNS, item_texts=("title", "genres")))
    assert spec.names("item", "category") == ("genres",)
    assert spec.names("item", "text") == ("title", "genres")


def test_a_column_named_twice_is_refused_by_name():
    with pytest.raises(FeaturesError, match=r"\('item', 'number', 'year'\)\] come twice"):
        spec_of(replace(COLUMNS, item_numbers=("year", "year")))


def test_a_number_with_the_name_of_a_derived_one_is_refused_by_name():
    with pytest.raises(FeaturesError, match=r"\('item', 'number', 'value_mean'\)\] come twice"):
        spec_of(replace(COLUMNS, item_numbers=("value_mean",)))
    with pytest.raises(FeaturesError, match=r"\('query', 'number', 'idle_days'\)\] come twice"):
        spec_of(replace(COLUMNS, query_numbers=("idle_days",)))


@pytest.mark.parametrize("side", ["query_categories", "item_categories"])
@pytest.mark.parametrize("name", ["event", "item_id"])
def test_a_category_with_the_name_of_a_vocabulary_that_every_dataset_has_is_refused(side, name):
    with pytest.raises(FeaturesError, match=f"a column cannot be called {name}.*; rename the column"):
        replace(COLUMNS, **{side: ("x", name)})


@pytest.mark.parametrize("side", ["query_numbers", "item_numbers"])
def test_a_number_with_the_name_of_the_scale_of_events_values_is_refused(side):
    with pytest.raises(FeaturesError, match=r"a column cannot be called history_value.*; rename the column"):
        replace(COLUMNS, **{side: ("x", "history_value")})
    assert replace(COLUMNS, item_categories=("history_value",))  # of another kind


@pytest.mark.parametrize("kind", ["categories", "numbers"])
def test_a_name_on_both_sides_is_refused_for_what_is_fitted_is_kept_by_name(kind):
    with pytest.raises(FeaturesError, match=r"\['city'\] are columns of one kind of queries and of items; rename"):
        replace(COLUMNS, **{f"query_{kind}": ("city",), f"item_{kind}": ("city",)})
