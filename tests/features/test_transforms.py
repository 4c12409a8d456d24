import math
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from features.catalogue import Catalogue, ItemColumns
from features.spec import DAY_MS, FeatureColumns, TextLayout
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.transforms import (
    ItemInputs,
    QueryFeatures,
    QueryInputs,
    RankerInputs,
    item_inputs,
    item_texts,
    query_inputs,
    ranker_feature_names,
    ranker_inputs,
)
from features.vocab import FIRST, PADDING, UNKNOWN, NumberScale, Vocabularies, Vocabulary

# Longer than the 5 events of a short-term affinity, so that the two spans differ.
HISTORY_LENGTH = 7
NOW_MS = 20_000 * DAY_MS
RETRIEVERS = ("towers", "transitions")
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("genres", "directors"),
    item_numbers=("year",),
    item_texts=("title", "plot"),
    history_length=HISTORY_LENGTH,
    category_length=3,
)
NAMES = ranker_feature_names(
    retrievers=RETRIEVERS, item_categories=COLUMNS.item_categories, item_numbers=COLUMNS.item_numbers
)
SPEC = COLUMNS.spec(
    text=TextLayout(history_items=2, history_tokens=3, candidate_tokens=4),
    ranker_features=NAMES,
)
VOCABULARIES = Vocabularies(
    categories={
        "gender": Vocabulary(("F", "M")),
        "item_id": Vocabulary(tuple("abcd")),  # e and f came after the fit
        "genres": Vocabulary(("Drama", "Comedy", "Crime")),
        "directors": Vocabulary(("Ozu",)),
    },
    numbers={"age": NumberScale(mean=30.0, deviation=10.0), "year": NumberScale(mean=1980.0, deviation=10.0)},
)
CATALOGUE = Catalogue(tuple("abcdef"))
ROW = {item_id: CATALOGUE.row(item_id) for item_id in CATALOGUE.item_ids}
NUM_ROWS = len(CATALOGUE)
CLS, SEP = 101, 102


def a_query(
    items: str | list[str] = "",
    *,
    values: list[float] | None = None,
    at_ms: list[int] | None = None,
    gender: str = "F",
    age: float = 30.0,
    requested_at_ms: int = NOW_MS,
) -> QueryFeatures:
    """One query; its history's values count up from 1 and its instants are a day apart, the newest a day ago."""
    history = list(items)
    return QueryFeatures(
        history_item_ids=[history],
        history_values=[values or [1.0 + place for place in range(len(history))]],
        history_at_ms=[at_ms or [requested_at_ms - DAY_MS * (len(history) - place) for place in range(len(history))]],
        categories=[[gender]],
        numbers=[[age]],
        requested_at_ms=[requested_at_ms],
    )


def together(*queries: QueryFeatures) -> QueryFeatures:
    return QueryFeatures(
        **{field.name: [row for query in queries for row in getattr(query, field.name)] for field in fields(queries[0])}
    )


def encoded(queries: QueryFeatures) -> QueryInputs:
    return query_inputs(queries, spec=SPEC, vocabularies=VOCABULARIES, catalogue=CATALOGUE)


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
    items: ItemInputs = ITEMS,
    statistics: ItemStatistics = STATISTICS_AT,
) -> RankerInputs:
    if scores is None:
        scores = np.zeros((*candidates.shape, len(RETRIEVERS)), dtype=np.float32)
    return ranker_inputs(
        queries, candidates, scores, spec=SPEC, items=items, statistics=statistics, special_tokens=(CLS, SEP)
    )


def dense_of(inputs: RankerInputs, name: str) -> NDArray[np.float32]:
    """One dense feature by name, [N, C]; found by its place in the names, so these tests prove the order too."""
    return inputs.dense[:, :, NAMES.index(name)]


item_ids = st.sampled_from([*CATALOGUE.item_ids, "unheard of", ""])


@st.composite
def one_query(draw: st.DrawFn) -> QueryFeatures:
    history = draw(st.lists(item_ids, max_size=HISTORY_LENGTH + 4))
    requested_at_ms = NOW_MS + draw(st.integers(-2 * DAY_MS, 2 * DAY_MS))
    ages_ms = draw(st.lists(st.integers(0, 500 * DAY_MS), min_size=len(history), max_size=len(history)))
    return QueryFeatures(
        history_item_ids=[history],
        history_values=[draw(st.lists(st.floats(0, 5), min_size=len(history), max_size=len(history)))],
        history_at_ms=[sorted(requested_at_ms - age for age in ages_ms)],
        categories=[[draw(st.sampled_from(["F", "M", "", "other"]))]],
        numbers=[[draw(st.one_of(st.floats(0, 100), st.just(math.nan)))]],
        requested_at_ms=[requested_at_ms],
    )


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


def assert_same_query(one: QueryInputs, other: QueryInputs) -> None:
    for field in fields(QueryInputs):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "seen_rows":  # as wide as the longest history of its batch; what is wider is padding
            width = max(left.shape[1], right.shape[1])
            left, right = (np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in (left, right))
        np.testing.assert_array_equal(left, right, err_msg=field.name)


# ---- queries


def test_a_history_is_padded_on_the_left_so_that_the_newest_item_is_last():
    inputs = encoded(a_query("ab", values=[3.0, 5.0]))
    assert inputs.history_rows.tolist() == [[0, 0, 0, 0, 0, ROW["a"], ROW["b"]]]
    assert inputs.history_values.tolist() == [[0, 0, 0, 0, 0, 3, 5]]
    assert inputs.history_age_days.tolist() == [[0, 0, 0, 0, 0, 2, 1]]
    assert inputs.history_mask.tolist() == [[False] * 5 + [True] * 2]


def test_a_history_longer_than_the_spec_keeps_its_newest_items():
    # 9 events of values 1 to 9 and ages 9 to 1 days; 7 fit
    inputs = encoded(a_query("abcdefabc"))
    assert inputs.history_rows.tolist() == [[ROW[item_id] for item_id in "cdefabc"]]
    assert inputs.history_values.tolist() == [[3, 4, 5, 6, 7, 8, 9]]
    assert inputs.history_age_days.tolist() == [[7, 6, 5, 4, 3, 2, 1]]


def test_seen_rows_hold_the_whole_history_however_long():
    inputs = encoded(together(a_query("abcdefabc"), a_query("d"), a_query()))
    assert inputs.seen_rows[0].tolist() == [ROW[item_id] for item_id in "abcdefabc"]
    assert inputs.seen_rows[1].tolist() == [ROW["d"], *[PADDING] * 8]
    assert inputs.seen_rows[2].tolist() == [PADDING] * 9


def test_an_item_outside_the_catalogue_is_unknown_and_present():
    inputs = encoded(a_query(["a", "unheard of"]))
    assert inputs.history_rows[0, -2:].tolist() == [ROW["a"], UNKNOWN]
    assert inputs.history_mask[0, -2:].tolist() == [True, True]


def test_an_empty_history_is_all_padding():
    inputs = encoded(a_query())
    assert not inputs.history_mask.any()
    assert not inputs.history_values.any()
    assert not inputs.history_age_days.any()
    assert inputs.seen_rows.shape == (1, 0)


def test_attributes_are_encoded_and_a_missing_one_is_padding_or_the_mean():
    inputs = encoded(together(a_query(gender="M", age=45.0), a_query(gender="", age=math.nan), a_query(gender="x")))
    assert inputs.categories.tolist() == [[FIRST + 1], [PADDING], [UNKNOWN]]
    assert inputs.numbers.tolist() == [[1.5], [0.0], [0.0]]  # (45 - 30) / 10; nan is the mean 30


def test_ages_lie_between_nothing_and_a_year():
    ages = encoded(a_query("ab", at_ms=[0, NOW_MS + 5])).history_age_days[0, -2:]
    assert ages.tolist() == [365.0, 0.0]  # 20,000 days ago, and 5 ms after the request by a wrong clock


def test_no_queries_give_arrays_without_rows():
    inputs = encoded(QueryFeatures([], [], [], [], [], []))
    assert inputs.history_rows.shape == (0, HISTORY_LENGTH)
    assert inputs.categories.shape == (0, 1)
    assert inputs.seen_rows.shape == (0, 0)


@settings(deadline=None)
@given(st.lists(one_query(), min_size=1, max_size=5))
def test_a_batch_of_queries_equals_its_rows_one_at_a_time(queries):
    batch = encoded(together(*queries))
    for place, query in enumerate(queries):
        assert_same_query(batch.take(slice(place, place + 1)), encoded(query))


@given(one_query())
def test_what_a_query_did_before_its_newest_events_is_only_in_seen_rows(query):
    longer = replace(
        query,
        history_item_ids=[["f"] * HISTORY_LENGTH + query.history_item_ids[0]],
        history_values=[[5.0] * HISTORY_LENGTH + query.history_values[0]],
        history_at_ms=[[0] * HISTORY_LENGTH + query.history_at_ms[0]],
    )
    kept = min(len(query.history_item_ids[0]), HISTORY_LENGTH)
    start = HISTORY_LENGTH - kept
    np.testing.assert_array_equal(encoded(longer).history_rows[:, start:], encoded(query).history_rows[:, start:])
    np.testing.assert_array_equal(encoded(longer).history_values[:, start:], encoded(query).history_values[:, start:])
    np.testing.assert_array_equal(
        encoded(longer).seen_rows[0, HISTORY_LENGTH:], encoded(query).seen_rows[0, : len(query.history_item_ids[0])]
    )


def test_some_queries_of_a_batch_can_be_taken():
    inputs = encoded(together(a_query("a"), a_query("b"), a_query("c")))
    assert inputs.take(np.array([2, 0])).history_rows[:, -1].tolist() == [ROW["c"], ROW["a"]]


# ---- items


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "toy", "story", "a", "boy", ".")
    words_tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    words_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words_tokenizer.save(str(path))
    return TextTokenizer(path)


ITEM_COLUMNS = ItemColumns(
    catalogue=CATALOGUE,
    categories={
        "genres": [["Drama"], ["Crime", "Drama", "Comedy", "Western"], [], ["Western"], ["Comedy"], ["Drama"]],
        "directors": [["Ozu"], [], [], ["Lynch", "Ozu"], [], []],
    },
    numbers={"year": np.array([1990.0, np.nan, 1980.0, 1970.0, 1980.0, 3000.0])},
    texts={
        "title": ["toy story", "", "boy", "", "", ""],
        "plot": ["a toy a boy", "a story", "", "", "", ""],
    },
)


def test_an_item_keeps_the_first_values_of_a_category(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    drama, comedy, crime, ozu = FIRST, FIRST + 1, FIRST + 2, FIRST
    assert items.categories[FIRST:, 0].tolist() == [
        [drama, 0, 0],
        [crime, drama, comedy],  # Western is the fourth
        [0, 0, 0],
        [UNKNOWN, 0, 0],  # Western was not in the vocabulary
        [comedy, 0, 0],
        [drama, 0, 0],
    ]
    assert items.categories[FIRST + 3, 1].tolist() == [UNKNOWN, ozu, 0]


def test_an_item_newer_than_the_fit_has_the_unknown_id(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    assert items.item_id.tolist() == [PADDING, UNKNOWN, 2, 3, 4, 5, UNKNOWN, UNKNOWN]


def test_an_items_numbers_are_scaled_and_a_missing_one_is_zero(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    # (year - 1980) / 10; 3000 is cut to 5 deviations
    assert items.numbers[:, 0].tolist() == [0, 0, 1, 0, 0, -1, 0, 5]


def test_a_title_is_the_first_text_and_a_candidates_text_is_all_of_them(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    toy, story, a, boy, stop = 4, 5, 6, 7, 8
    assert items.title_tokens[FIRST : FIRST + 3].tolist() == [[toy, story, 0], [0, 0, 0], [boy, 0, 0]]
    # "toy story. a toy a boy" is cut after 4 tokens; the others have one text each and no full stop
    assert items.text_tokens[FIRST : FIRST + 3].tolist() == [[toy, story, stop, a], [a, story, 0, 0], [boy, 0, 0, 0]]


def test_padding_and_unknown_have_neither_values_nor_text(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    for array in (items.categories, items.numbers, items.title_tokens, items.text_tokens):
        assert len(array) == NUM_ROWS
        assert not array[:FIRST].any()


def test_an_items_text_is_one_line_of_its_columns():
    assert item_texts(ITEM_COLUMNS, names=("title", "plot"))[:5] == ["", "", "toy story. a toy a boy", "a story", "boy"]


def test_a_catalogue_equals_its_items_one_at_a_time(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    for place, item_id in enumerate(CATALOGUE.item_ids):
        alone = ItemColumns(
            catalogue=Catalogue((item_id,)),
            categories={name: [values[place]] for name, values in ITEM_COLUMNS.categories.items()},
            numbers={name: values[place : place + 1] for name, values in ITEM_COLUMNS.numbers.items()},
            texts={name: [values[place]] for name, values in ITEM_COLUMNS.texts.items()},
        )
        one = item_inputs(alone, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
        for field in fields(ItemInputs):
            np.testing.assert_array_equal(
                getattr(one, field.name)[FIRST], getattr(items, field.name)[FIRST + place], err_msg=field.name
            )


# ---- candidates: retrievers' scores


def test_the_names_cover_every_dense_feature():
    made = ranked(encoded(a_query("ab")), np.array([[2, 3, 4]]))
    # 2 retrievers of 3, the statistics, 3 of the query, 2 categories of 2, 1 number
    assert made.dense.shape == (1, 3, len(NAMES)) == (1, 3, 2 * 3 + len(STATISTICS) + 3 + 2 * 2 + 1)
    assert made.dense.dtype == np.float32
    assert len(set(NAMES)) == len(NAMES)


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
        ranker_inputs(
            encoded(a_query()),
            np.array([[2]]),
            np.zeros((1, 1, 2), dtype=np.float32),
            spec=spec,
            items=ITEMS,
            statistics=STATISTICS_AT,
            special_tokens=(CLS, SEP),
        )


def test_a_score_comes_with_its_deviation_from_the_list_and_the_log_of_its_rank():
    scores = np.array([[[3.0, 0.5], [1.0, 0.5], [2.0, 0.9]]], dtype=np.float32)
    made = ranked(encoded(a_query()), np.array([[2, 3, 4]]), scores)
    assert dense_of(made, "towers_score").tolist() == [[3, 1, 2]]
    # mean 2, deviation sqrt((1 + 1 + 0) / 3)
    np.testing.assert_allclose(dense_of(made, "towers_z_score")[0], np.array([1, -1, 0]) / math.sqrt(2 / 3), rtol=1e-5)
    np.testing.assert_allclose(dense_of(made, "towers_log_rank")[0], np.log([1, 3, 2]), rtol=1e-6)
    # The tie of the second retriever keeps the order of retrieval: ranks 2, 3, 1.
    np.testing.assert_allclose(dense_of(made, "transitions_log_rank")[0], np.log([2, 3, 1]), rtol=1e-6)


def test_a_retriever_that_knows_nothing_says_nothing():
    made = ranked(encoded(a_query()), np.array([[2, 3, 4]]))
    assert dense_of(made, "transitions_z_score").tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(dense_of(made, "transitions_log_rank")[0], np.log([1, 2, 3]), rtol=1e-6)


@given(st.floats(-100, 100, width=32), st.integers(1, 200))
def test_equal_scores_deviate_by_nothing_and_not_by_a_rounding_error(score, count):
    # In fp32 the mean of a hundred 3.7 is 3.7000010, and each would stand 0.95 deviations below it.
    candidates = np.full((1, count), FIRST)
    made = ranked(encoded(a_query()), candidates, np.full((1, count, 2), score, dtype=np.float32))
    assert not dense_of(made, "towers_z_score").any()


def test_padding_is_left_out_of_means_and_ranked_last():
    scores = np.array([[[-3.0, 0], [-1.0, 0], [0.0, 0], [0.0, 0]]], dtype=np.float32)
    made = ranked(encoded(a_query()), np.array([[2, 3, PADDING, PADDING]]), scores)
    np.testing.assert_allclose(dense_of(made, "towers_z_score"), [[-1, 1, 0, 0]], rtol=1e-5)  # mean -2, deviation 1
    np.testing.assert_allclose(dense_of(made, "towers_log_rank")[0], np.log([2, 1, 3, 4]), rtol=1e-6)


# ---- candidates: statistics and the query


def test_item_statistics_are_those_of_the_last_tick_before_the_request():
    instants = [NOW_MS - DAY_MS, NOW_MS - 1, NOW_MS, NOW_MS + 5 * DAY_MS]
    queries = encoded(together(*(a_query(requested_at_ms=at_ms) for at_ms in instants)))
    made = ranked(queries, np.array([[2], [2], [2], [2]]))
    for name in STATISTICS:
        raw = STATISTICS_AT.values[[0, 0, 1, 2], 2, STATISTICS.index(name)]
        expected = raw if name == "value_mean" else np.log1p(raw)
        np.testing.assert_allclose(dense_of(made, f"item_{name}")[:, 0], expected, rtol=1e-6)


def test_statistics_of_later_ticks_change_nothing():
    queries = encoded(a_query("ab", requested_at_ms=NOW_MS))
    values = STATISTICS_AT.values.copy()
    values[2] += 1000.0
    later = replace(STATISTICS_AT, values=values)
    candidates = np.array([[2, 3]])
    np.testing.assert_array_equal(
        ranked(queries, candidates, statistics=later).dense, ranked(queries, candidates).dense
    )


def test_every_candidate_carries_what_is_known_of_its_query():
    made = ranked(encoded(a_query("abc", values=[1.0, 2.0, 6.0])), np.array([[2, 3]]))
    np.testing.assert_allclose(dense_of(made, "query_history_length"), [[math.log1p(3)] * 2], rtol=1e-6)
    np.testing.assert_allclose(dense_of(made, "query_value_mean"), [[3.0] * 2])
    np.testing.assert_allclose(dense_of(made, "query_idle_days"), [[math.log1p(1)] * 2], rtol=1e-6)


def test_a_query_without_history_has_been_idle_for_a_year():
    made = ranked(encoded(a_query()), np.array([[2]]))
    assert dense_of(made, "query_history_length").item() == 0
    assert dense_of(made, "query_value_mean").item() == 0
    np.testing.assert_allclose(dense_of(made, "query_idle_days").item(), math.log1p(365), rtol=1e-6)
    for name in ("genres_affinity_long", "genres_affinity_short", "directors_affinity_long"):
        assert dense_of(made, name).item() == 0


# ---- candidates: affinity


def with_genres(**genres: list[int]) -> ItemInputs:
    """An item table whose items have these genres and nothing else."""
    categories = np.zeros((NUM_ROWS, 2, 3), dtype=np.int64)
    for item_id, values in genres.items():
        categories[ROW[item_id], 0, : len(values)] = values
    return replace(ITEMS, categories=categories, numbers=np.zeros_like(ITEMS.numbers))


def test_affinity_is_the_share_of_the_history_with_the_candidates_values():
    drama, comedy = 2, 3
    items = with_genres(a=[drama], b=[comedy], c=[drama, comedy], d=[4])
    made = ranked(encoded(a_query("aaaab")), np.array([[ROW["a"], ROW["b"], ROW["c"], ROW["d"]]]), items=items)
    # 4 of 5 events are drama, 1 is comedy; c has both and gets their mean; nothing had d's genre
    np.testing.assert_allclose(dense_of(made, "genres_affinity_long"), [[0.8, 0.2, 0.5, 0.0]], rtol=1e-6)


def test_the_short_affinity_looks_at_the_last_five_events():
    drama, comedy = 2, 3
    items = with_genres(a=[drama], b=[comedy])
    made = ranked(encoded(a_query("aabbbbb")), np.array([[ROW["a"], ROW["b"]]]), items=items)
    np.testing.assert_allclose(dense_of(made, "genres_affinity_long"), [[2 / 7, 5 / 7]], rtol=1e-6)
    np.testing.assert_allclose(dense_of(made, "genres_affinity_short"), [[0.0, 1.0]])


def test_padding_and_unknown_values_are_nothing_in_common():
    items = with_genres(a=[UNKNOWN], b=[UNKNOWN, 2], c=[])
    made = ranked(encoded(a_query("abc")), np.array([[ROW["a"], ROW["b"], ROW["c"], UNKNOWN]]), items=items)
    # only b's genre 2 is known, and one event of three had it
    np.testing.assert_allclose(dense_of(made, "genres_affinity_long"), [[0, 1 / 3, 0, 0]], rtol=1e-6)


def test_a_numbers_difference_is_taken_from_the_mean_of_the_last_five_events():
    numbers = np.zeros((NUM_ROWS, 1), dtype=np.float32)
    numbers[[ROW["a"], ROW["b"], ROW["c"]], 0] = [5.0, 1.0, 2.0]
    items = replace(ITEMS, numbers=numbers)
    made = ranked(encoded(a_query("aabbbbc")), np.array([[ROW["a"], ROW["c"]]]), items=items)
    # the last five are b b b b c: mean (4 * 1 + 2) / 5 = 1.2
    np.testing.assert_allclose(dense_of(made, "year_difference"), [[3.8, 0.8]], rtol=1e-6)


def slow_affinity(
    history: list[int], candidate: int, *, categories: NDArray[np.int64], mask: list[bool], span: int
) -> float:
    """Share of the history with each known value of the candidate, averaged over these values; one by one."""
    looked_at = [row for row, present in list(zip(history, mask, strict=True))[-span:] if present]
    values = [value for value in categories[candidate].tolist() if value > UNKNOWN]
    shares = [sum(value in categories[row].tolist() for row in looked_at) / max(len(looked_at), 1) for value in values]
    return sum(shares) / max(len(values), 1)


@settings(deadline=None)
@given(requests(), st.integers(0, 2**32 - 1))
def test_affinities_and_differences_equal_a_slow_recomputation(request_, seed):
    items = random_items(np.random.default_rng(seed))
    queries = encoded(together(*request_.queries))
    made = ranked(queries, request_.candidates, request_.scores, items=items)
    for n in range(len(request_.queries)):
        history, mask = queries.history_rows[n].tolist(), queries.history_mask[n].tolist()
        recent = [float(items.numbers[row, 0]) for row, there in list(zip(history, mask, strict=True))[-5:] if there]
        for c, candidate in enumerate(request_.candidates[n].tolist()):
            for column, name in enumerate(COLUMNS.item_categories):
                for span, length in (("long", HISTORY_LENGTH), ("short", 5)):
                    np.testing.assert_allclose(
                        dense_of(made, f"{name}_affinity_{span}")[n, c],
                        slow_affinity(
                            history, candidate, categories=items.categories[:, column], mask=mask, span=length
                        ),
                        atol=1e-6,
                    )
            expected = abs(float(items.numbers[candidate, 0]) - sum(recent) / max(len(recent), 1))
            np.testing.assert_allclose(dense_of(made, "year_difference")[n, c], expected, atol=1e-5)


# ---- candidates: tokens


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


# ---- candidates: batches


@settings(deadline=None)
@given(requests())
def test_a_batch_of_candidates_equals_its_rows_one_at_a_time(request_):
    batch = ranked(encoded(together(*request_.queries)), request_.candidates, request_.scores)
    for place, query in enumerate(request_.queries):
        own = slice(place, place + 1)
        one = ranked(encoded(query), request_.candidates[own], request_.scores[own])
        np.testing.assert_array_equal(one.tokens, batch.tokens[own])
        np.testing.assert_array_equal(one.dense, batch.dense[own])


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
@given(requests())
def test_whatever_comes_in_no_feature_is_nan_or_infinite(request_):
    assert np.isfinite(ranked(encoded(together(*request_.queries)), request_.candidates, request_.scores).dense).all()
