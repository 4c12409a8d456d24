import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import FeatureColumns
from features.context import CONTEXT, context_inputs
from features.spec import DAY_MS
from features.transforms import QueryFeatures, QueryInputs, single_precision
from features.vocab import FIRST, PADDING, UNKNOWN
from tests.features.by_hand import (
    ASKING,
    COLUMNS,
    HISTORY_LENGTH,
    NAMES,
    NOW_MS,
    ROW,
    SPEC,
    STORED,
    TEXT,
    a_query,
    encoded,
    one_query,
    together,
)


def assert_same_query(one: QueryInputs, other: QueryInputs) -> None:
    for field in fields(QueryInputs):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name.startswith("seen_"):  # as wide as the longest history of its batch; what is wider is padding
            width = max(left.shape[1], right.shape[1])
            left, right = (np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in (left, right))
        np.testing.assert_array_equal(left, right, err_msg=field.name)


def test_a_history_is_padded_on_the_left_so_that_the_newest_item_is_last():
    inputs = encoded(a_query("ab", values=[3.0, 5.0], events=["purchase", "view"]))
    view, purchase = FIRST, FIRST + 1
    assert inputs.history_rows.tolist() == [[0, 0, 0, 0, 0, ROW["a"], ROW["b"]]]
    assert inputs.history_events.tolist() == [[0, 0, 0, 0, 0, purchase, view]]
    assert inputs.history_values.tolist() == [[0, 0, 0, 0, 0, 3, 5]]
    assert inputs.history_age_days.tolist() == [[0, 0, 0, 0, 0, 2, 1]]
    assert inputs.history_gap_days.tolist() == [[0, 0, 0, 0, 0, 1, 1]]
    assert inputs.history_mask.tolist() == [[False] * 5 + [True] * 2]


def test_a_history_longer_than_the_spec_keeps_its_newest_items():
    # 9 events of values 1 to 9 and ages 9 to 1 days; 7 fit
    inputs = encoded(a_query("abcdefabc"))
    assert inputs.history_rows.tolist() == [[ROW[item_id] for item_id in "cdefabc"]]
    assert inputs.history_values.tolist() == [[3, 4, 5, 6, 7, 8, 9]]
    assert inputs.history_age_days.tolist() == [[7, 6, 5, 4, 3, 2, 1]]


def test_seen_rows_hold_the_stored_history_newest_first_with_its_ages():
    inputs = encoded(together(a_query("abcdefab"), a_query("d"), a_query()))
    assert inputs.seen_rows[0].tolist() == [ROW[item_id] for item_id in "bafedcba"]
    assert inputs.seen_age_days[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert inputs.seen_rows[1].tolist() == [ROW["d"], *[PADDING] * 7]
    assert inputs.seen_age_days[1].tolist() == [1, *[0] * 7]
    assert inputs.seen_rows[2].tolist() == [PADDING] * 8


@settings(deadline=None, max_examples=60)
@given(one_query(), st.integers(1, 5))
def test_no_feature_looks_further_back_than_what_is_stored(query, num_older):
    num = len(query.history_item_ids[0])
    kept = slice(max(num - STORED, 0), None)
    cut = replace(
        query,
        history_item_ids=[query.history_item_ids[0][kept]],
        history_events=[query.history_events[0][kept]],
        history_values=[query.history_values[0][kept]],
        history_at_ms=[query.history_at_ms[0][kept]],
    )
    assert_same_query(encoded(query), encoded(cut))
    if num >= STORED:
        longer = replace(
            query,
            history_item_ids=[["f"] * num_older + query.history_item_ids[0]],
            history_events=[["purchase"] * num_older + query.history_events[0]],
            history_values=[[5.0] * num_older + query.history_values[0]],
            history_at_ms=[[0] * num_older + query.history_at_ms[0]],
        )
        assert_same_query(encoded(longer), encoded(query))


def test_a_spec_that_stores_nothing_sees_no_history():
    spec = replace(COLUMNS, stored_history=0).spec(text=TEXT, ranker_features=NAMES)
    inputs, none = encoded(a_query("abc"), spec=spec), encoded(a_query(), spec=spec)
    assert_same_query(inputs, none)
    assert inputs.history_rows.tolist() == [[PADDING]]
    assert inputs.seen_rows.shape == (1, 0)


def test_an_item_outside_the_catalogue_is_unknown_and_present():
    inputs = encoded(a_query(["a", "unheard of"]))
    assert inputs.history_rows[0, -2:].tolist() == [ROW["a"], UNKNOWN]
    assert inputs.history_mask[0, -2:].tolist() == [True, True]


def test_a_kind_of_event_that_was_not_there_to_learn_from_is_unknown():
    assert encoded(a_query("ab", events=["new kind", "view"])).history_events[0, -2:].tolist() == [UNKNOWN, FIRST]


def test_an_empty_history_is_all_padding():
    inputs = encoded(a_query())
    for name in ("mask", "events", "values", "age_days", "gap_days"):
        assert not getattr(inputs, f"history_{name}").any()
    assert inputs.seen_rows.shape == inputs.seen_age_days.shape == (1, 0)


def test_attributes_are_encoded_and_a_missing_one_is_padding_or_the_mean():
    inputs = encoded(together(a_query(gender="M", age=45.0), a_query(gender="", age=math.nan), a_query(gender="x")))
    assert inputs.categories.tolist() == [[FIRST + 1], [PADDING], [UNKNOWN]]
    assert inputs.numbers.tolist() == [[1.5], [0.0], [0.0]]  # (45 - 30) / 10; nan is the mean 30


def test_ages_lie_between_nothing_and_a_year():
    inputs = encoded(a_query("ab", at_ms=[0, NOW_MS + 5]))
    # 20,000 days ago, and 5 ms after the request by a wrong clock
    assert inputs.history_age_days[0, -2:].tolist() == [365.0, 0.0]
    assert inputs.seen_age_days[0].tolist() == [0.0, 365.0]


def test_a_gap_runs_to_the_next_event_of_the_history_and_the_newest_ones_to_the_request():
    # 30 days, 6 hours and 1 ms between events, then 43.2 s until the request; an instant may hold two events
    at_ms = [NOW_MS - 43_200 - 1 - DAY_MS // 4 - 30 * DAY_MS, NOW_MS - 43_200 - 1 - DAY_MS // 4]
    at_ms += [NOW_MS - 43_200 - 1] * 2 + [NOW_MS - 43_200]
    expected = [0.0, 0.0, 30.0, 0.25, 0.0, 1 / 86_400_000, 0.0005]
    inputs = encoded(a_query(["a", "unheard of", "b", "c", "d"], at_ms=at_ms))
    assert inputs.history_gap_days.dtype == np.float32
    np.testing.assert_array_equal(inputs.history_gap_days, np.array([expected], dtype=np.float32))


def test_a_gap_does_not_run_into_another_query_nor_out_of_what_is_kept():
    inputs = encoded(together(a_query("abcdefabc"), a_query(), a_query("a", requested_at_ms=NOW_MS + DAY_MS)))
    assert inputs.history_gap_days.tolist() == [[1] * 7, [0] * 7, [0, 0, 0, 0, 0, 0, 1]]


def test_gaps_lie_between_nothing_and_ten_years():
    inputs = encoded(a_query("abc", at_ms=[0, NOW_MS + 5, NOW_MS + 2]))
    # 20,000 days; then back by 3 ms; then 2 ms after the request by a wrong clock
    assert inputs.history_gap_days[0, -3:].tolist() == [3650.0, 0.0, 0.0]


@settings(deadline=None, max_examples=60)
@given(one_query())
def test_the_gaps_of_a_whole_history_add_up_to_the_age_of_its_first_event(query):
    inputs, num = encoded(query), len(query.history_item_ids[0])
    if 0 < num <= HISTORY_LENGTH and inputs.history_age_days.max() < 365.0:
        oldest = HISTORY_LENGTH - num
        assert inputs.history_gap_days.sum() == pytest.approx(inputs.history_age_days[0, oldest], rel=1e-5)


def test_the_context_is_that_of_the_same_history():
    inputs = encoded(together(a_query("aba"), a_query()))
    expected = context_inputs(
        requested_at_ms=np.array([NOW_MS, NOW_MS]),
        lengths=np.array([3, 0]),
        item_rows=np.array([ROW["a"], ROW["b"], ROW["a"]]),
        values=np.array([1, 2, 3], dtype=np.float32),
        at_ms=NOW_MS - DAY_MS * np.array([3, 2, 1]),
        session_gap_minutes=SPEC.session_gap_minutes,
    )
    np.testing.assert_array_equal(inputs.context, expected)


def test_the_context_ends_a_session_where_the_spec_says():
    at_ms = [NOW_MS - 40 * 60_000, NOW_MS - 1]
    names = list(CONTEXT)
    for minutes, sessions in ((30, 2), (40, 1)):
        context = encoded(a_query("ab", at_ms=at_ms), spec=replace(SPEC, session_gap_minutes=minutes)).context[0]
        assert context[names.index("sessions")] == np.float32(np.log1p(sessions))


def test_numbers_are_of_single_precision_and_bounded_by_it():
    largest = float(np.finfo(np.float32).max)
    made = single_precision([0.1, 1e300, -1e300, math.inf, -math.inf, math.nan])
    np.testing.assert_array_equal(made, np.array([0.1, largest, -largest, largest, -largest, np.nan], np.float32))
    assert single_precision([]).tolist() == []
    assert single_precision([[], []]).shape == (2, 0)


def test_a_number_is_rounded_to_single_precision_before_it_is_scaled():
    # 30 + 2 ** -30 is 30 in single precision, as it is after a request has carried it.
    assert encoded(a_query(age=30 + 2**-30)).numbers.tolist() == [[0.0]]
    assert encoded(a_query("a", values=[0.1])).history_values[0, -1] == np.float32(0.1)


def test_a_huge_number_stays_finite_in_every_feature():
    inputs = encoded(a_query("ab", values=[1e300, 1e300], age=1e300))
    assert np.isfinite(inputs.history_values).all()
    assert np.isfinite(inputs.context).all()
    assert inputs.numbers.tolist() == [[5.0]]


def test_no_queries_give_arrays_without_rows():
    inputs = encoded(QueryFeatures([], [], [], [], [], [], [], []))
    assert inputs.history_rows.shape == inputs.history_events.shape == (0, HISTORY_LENGTH)
    assert inputs.categories.shape == (0, 1)
    assert inputs.context.shape == (0, len(CONTEXT))
    assert inputs.seen_rows.shape == inputs.seen_age_days.shape == (0, 0)


def test_a_dataset_without_attributes_has_empty_columns():
    bare = FeatureColumns(query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=())
    query = replace(together(a_query("ab"), a_query()), categories=[[], []], numbers=[[], []])
    inputs = encoded(query, spec=bare.spec(text=TEXT, ranker_features=()))
    assert inputs.categories.shape == inputs.numbers.shape == inputs.text_tokens.shape == (2, 0)
    assert (inputs.categories.dtype, inputs.numbers.dtype) == (np.int64, np.float32)


@settings(deadline=None, max_examples=50)
@given(st.lists(one_query(), min_size=1, max_size=5))
def test_a_batch_of_queries_equals_its_rows_one_at_a_time(queries):
    batch = encoded(together(*queries))
    for place, query in enumerate(queries):
        assert_same_query(batch.take(slice(place, place + 1)), encoded(query))


def test_some_queries_of_a_batch_can_be_taken():
    inputs = encoded(together(a_query("a"), a_query("b"), a_query("c")))
    assert inputs.take(np.array([2, 0])).history_rows[:, -1].tolist() == [ROW["c"], ROW["a"]]


# ---- what a query says


def test_what_a_query_says_becomes_its_tokens_cut_and_padded(tokenizer):
    queries = together(a_query(text="toy story a boy"), a_query(text="boy"), a_query())
    toy, story, boy = 4, 5, 7
    assert encoded(queries, spec=ASKING, tokenizer=tokenizer).text_tokens.tolist() == [[toy, story], [boy, 0], [0, 0]]
    assert encoded(queries, spec=ASKING, tokenizer=tokenizer).text_tokens.dtype == np.int64


def test_a_text_that_the_spec_does_not_have_is_not_read():
    assert encoded(a_query(text="toy")).text_tokens.shape == (1, 0)


def test_a_spec_with_a_query_text_asks_for_the_tokenizer():
    with pytest.raises(ValueError, match="has a query text: query_inputs needs its tokenizer"):
        encoded(a_query(text="toy"), spec=ASKING)
