from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.context import CONTEXT
from features.pairs import ranker_feature_names
from features.spec import DAY_MS, FeatureSpec
from features.statistics import STATISTICS, ItemStatistics
from features.transforms import ItemInputs, QueryFeatures, QueryInputs, RankerInputs, ranker_inputs
from features.vocab import FIRST, PADDING, UNKNOWN
from tests.features.by_hand import (
    ASKING,
    COLUMNS,
    NAMES,
    NOW_MS,
    NUM_ROWS,
    RETRIEVERS,
    ROW,
    SPEC,
    TEXT,
    a_query,
    encoded,
    one_query,
    together,
)

CLS, SEP = 101, 102


def random_items(generator: np.random.Generator) -> ItemInputs:
    """An item table with values of every kind; the values of one item are distinct."""
    categories = np.zeros((NUM_ROWS, 2, 3), dtype=np.int64)
    for row in range(FIRST, NUM_ROWS):
        for column in range(2):
            count = generator.integers(0, 4)
            categories[row, column, :count] = generator.permutation(np.arange(UNKNOWN, 5))[:count]
    numbers = generator.normal(size=(NUM_ROWS, 1)).astype(np.float32)
    numbers[:FIRST] = 0.0
    return ItemInputs(
        item_id=np.arange(NUM_ROWS),
        categories=categories,
        numbers=numbers,
        title_tokens=(np.arange(NUM_ROWS)[:, None] * 10 + np.arange(3)).astype(np.int32),
        text_tokens=(np.arange(NUM_ROWS)[:, None] * 10 + np.arange(4) + 500).astype(np.int32),
    )


def random_statistics(generator: np.random.Generator) -> ItemStatistics:
    values = generator.integers(0, 50, size=(3, NUM_ROWS, len(STATISTICS))).astype(np.float32)
    return ItemStatistics(ticks_at_ms=np.array([NOW_MS - DAY_MS, NOW_MS, NOW_MS + DAY_MS]), values=values)


ITEMS = random_items(np.random.default_rng(0))
STATISTICS_AT = random_statistics(np.random.default_rng(1))


def ranked(
    queries: QueryInputs,
    candidates: NDArray[np.int64],
    scores: NDArray[np.float32] | None = None,
    *,
    spec: FeatureSpec = SPEC,
) -> RankerInputs:
    if scores is None:
        scores = np.zeros((*candidates.shape, len(RETRIEVERS)), dtype=np.float32)
    return ranker_inputs(
        queries,
        candidates,
        scores,
        ranks_of(candidates),
        spec=spec,
        items=ITEMS,
        statistics=STATISTICS_AT,
        special_tokens=(CLS, SEP),
    )


def ranks_of(candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N, C, K] by the rows alone, so that they are the same in every batch; some were brought by nobody."""
    return np.where(candidates == PADDING, 0, candidates % 5)[:, :, None] * np.arange(1, len(RETRIEVERS) + 1)


def dense_of(inputs: RankerInputs, name: str) -> NDArray[np.float32]:
    """One dense feature by name, [N, C]; found by its place in the names, so these tests prove the order too."""
    return inputs.dense[:, :, NAMES.index(name)]


class Request(NamedTuple):
    queries: list[QueryFeatures]
    candidates: NDArray[np.int64]  # [N, C]
    scores: NDArray[np.float32]  # [N, C, K]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Up to 4 queries with up to 6 candidates each; shorter lists are padded."""
    queries = draw(st.lists(one_query(), min_size=1, max_size=4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, 6))
    candidates = np.zeros((len(queries), width), dtype=np.int64)
    for row in candidates:
        count = generator.integers(0, width + 1)
        row[:count] = generator.permutation(np.arange(FIRST, NUM_ROWS))[:count]
    scores = np.round(generator.normal(size=(*candidates.shape, len(RETRIEVERS))) * 3).astype(np.float32) / 2  # ties
    return Request(queries, candidates, np.where(candidates[:, :, None] == PADDING, 0, scores))


def test_the_tokens_of_a_row_begin_with_what_the_query_says(tokenizer):
    inputs = encoded(a_query("abc", text="toy story"), spec=ASKING, tokenizer=tokenizer)
    made = ranked(inputs, np.array([[ROW["d"]]]), spec=ASKING)
    titles = [*ITEMS.title_tokens[ROW["c"]].tolist(), *ITEMS.title_tokens[ROW["b"]].tolist()]
    assert made.tokens[0, 0].tolist() == [CLS, 4, 5, *titles, SEP, *ITEMS.text_tokens[ROW["d"]].tolist(), SEP]
    assert made.tokens.shape == (1, 1, ASKING.text.length)


def test_every_dense_feature_stands_where_its_name_does():
    query = encoded(a_query("aba"))
    scores = np.array([[[3.0, 0.5], [1.0, 0.75]]], dtype=np.float32)
    made = ranked(query, np.array([[ROW["b"], ROW["f"]]]), scores)
    # 2 retrievers of 3, the statistics, the context, 2 categories of 2, 1 number, 2 of repeats
    assert made.dense.shape == (1, 2, len(NAMES)) == (1, 2, 6 + len(STATISTICS) + len(CONTEXT) + 4 + 1 + 2)
    assert made.dense.dtype == np.float32
    assert len(set(NAMES)) == len(NAMES)
    assert dense_of(made, "towers_score").tolist() == [[3, 1]]
    assert dense_of(made, "transitions_score").tolist() == [[0.5, 0.75]]
    for place, name in enumerate(STATISTICS):
        raw = STATISTICS_AT.values[1, [ROW["b"], ROW["f"]], place]
        expected = raw if name == "value_mean" else np.log1p(raw)
        np.testing.assert_allclose(dense_of(made, f"item_{name}")[0], expected, rtol=1e-6)
    for place, name in enumerate(CONTEXT):
        assert dense_of(made, f"query_{name}").tolist() == [[query.context[0, place]] * 2]
    mean = ITEMS.numbers[[ROW["a"], ROW["b"], ROW["a"]], 0].mean()
    expected = np.abs(ITEMS.numbers[[ROW["b"], ROW["f"]], 0] - mean)
    np.testing.assert_allclose(dense_of(made, "year_difference")[0], expected, rtol=1e-5)
    # b was had once, two days ago
    np.testing.assert_allclose(dense_of(made, "repeat_count")[0], np.log1p([1, 0]), rtol=1e-6)
    np.testing.assert_allclose(dense_of(made, "last_seen_days")[0], np.log1p([2, 365]), rtol=1e-6)


@pytest.mark.parametrize("num_categories", [0, 1])
@pytest.mark.parametrize("num_numbers", [0, 2])
@pytest.mark.parametrize("num_retrievers", [1, 3])
def test_the_names_cover_every_dense_feature_of_other_specs(num_categories, num_numbers, num_retrievers):
    columns = replace(
        COLUMNS,
        item_categories=COLUMNS.item_categories[:num_categories],
        item_numbers=("year", "runtime")[:num_numbers],
    )
    names = ranker_feature_names(
        retrievers=("towers", "ease", "knn")[:num_retrievers],
        item_categories=columns.item_categories,
        item_numbers=columns.item_numbers,
    )
    made = ranker_inputs(
        encoded(a_query("ab")),
        np.array([[2, 3]]),
        np.ones((1, 2, num_retrievers), dtype=np.float32),
        np.ones((1, 2, num_retrievers), dtype=np.int64),
        spec=columns.spec(text=SPEC.text, ranker_features=names),
        items=replace(
            ITEMS,
            categories=ITEMS.categories[:, :num_categories],
            numbers=np.repeat(ITEMS.numbers, num_numbers, axis=1),
        ),
        statistics=STATISTICS_AT,
        special_tokens=(CLS, SEP),
    )
    assert made.dense.shape[2] == len(names)


def test_a_spec_with_other_features_is_refused_with_both_counts():
    spec = COLUMNS.spec(text=SPEC.text, ranker_features=NAMES[:-1])
    with pytest.raises(ValueError, match=f"names {len(NAMES) - 1} ranker features but {len(NAMES)} were made"):
        ranked(encoded(a_query()), np.array([[2]]), spec=spec)


def test_tokens_are_the_newest_titles_and_the_candidates_text_between_special_tokens():
    made = ranked(encoded(a_query("abc")), np.array([[ROW["d"], ROW["e"]]]))
    a_title = {item_id: [ROW[item_id] * 10 + place for place in range(3)] for item_id in "bc"}
    a_text = {item_id: [ROW[item_id] * 10 + 500 + place for place in range(4)] for item_id in "de"}
    # two titles, the newest first
    assert made.tokens[0].tolist() == [
        [CLS, *a_title["c"], *a_title["b"], SEP, *a_text[item_id], SEP] for item_id in "de"
    ]
    assert made.tokens.dtype == np.int64
    assert made.tokens.shape == (1, 2, SPEC.text.length)


def test_without_history_the_titles_are_those_of_padding():
    made = ranked(encoded(a_query("a")), np.array([[ROW["d"]]]))
    padding_title = ITEMS.title_tokens[PADDING].tolist()
    assert made.tokens[0, 0, 1:7].tolist() == [*ITEMS.title_tokens[ROW["a"]].tolist(), *padding_title]


def test_where_nothing_is_stored_of_a_query_a_row_is_its_candidates_text_alone():
    spec = replace(COLUMNS, stored_history=0).spec(text=TEXT, ranker_features=NAMES)
    made = ranked(encoded(a_query("abc"), spec=spec), np.array([[ROW["a"]]]), spec=spec)
    assert made.tokens.tolist() == [[[CLS, SEP, *ITEMS.text_tokens[ROW["a"]].tolist(), SEP]]]
    assert np.isfinite(made.dense).all()
    assert dense_of(made, "repeat_count").item() == 0


@settings(deadline=None, max_examples=40)
@given(requests())
def test_a_batch_of_candidates_equals_its_rows_one_at_a_time(request_):
    batch = ranked(encoded(together(*request_.queries)), request_.candidates, request_.scores)
    for place, query in enumerate(request_.queries):
        own = slice(place, place + 1)
        one = ranked(encoded(query), request_.candidates[own], request_.scores[own])
        np.testing.assert_array_equal(one.tokens, batch.tokens[own])
        np.testing.assert_array_equal(one.dense, batch.dense[own])


@settings(deadline=None, max_examples=40)
@given(requests(), one_query())
def test_no_feature_depends_on_another_query_of_the_batch(request_, stranger):
    others = [stranger] * (len(request_.queries) - 1)
    first = slice(0, 1)
    candidates, scores = request_.candidates.copy(), request_.scores.copy()
    candidates[1:], scores[1:] = FIRST, 7.0
    before = ranked(encoded(together(*request_.queries)), request_.candidates, request_.scores)
    after = ranked(encoded(together(request_.queries[0], *others)), candidates, scores)
    np.testing.assert_array_equal(after.dense[first], before.dense[first])
    np.testing.assert_array_equal(after.tokens[first], before.tokens[first])


@settings(deadline=None, max_examples=40)
@given(requests(), st.integers(1, 5))
def test_more_padding_after_the_candidates_changes_none_of_them(request_, num_padding):
    queries = encoded(together(*request_.queries))
    made = ranked(queries, request_.candidates, request_.scores)
    padded = ranked(
        queries,
        np.pad(request_.candidates, ((0, 0), (0, num_padding))),
        np.pad(request_.scores, ((0, 0), (0, num_padding), (0, 0))),
    )
    width = request_.candidates.shape[1]
    np.testing.assert_array_equal(padded.tokens[:, :width], made.tokens)
    np.testing.assert_allclose(padded.dense[:, :width], made.dense, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(requests())
def test_whatever_comes_in_no_feature_is_nan_or_infinite(request_):
    assert np.isfinite(ranked(encoded(together(*request_.queries)), request_.candidates, request_.scores).dense).all()
