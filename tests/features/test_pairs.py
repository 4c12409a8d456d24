import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.context import CONTEXT, MAX_IDLE_DAYS
from features.pairs import (
    NOT_BROUGHT,
    affinity_features,
    ranker_feature_names,
    repeat_features,
    retriever_features,
    statistics_features,
)
from features.spec import DAY_MS
from features.statistics import STATISTICS, ItemStatistics
from features.vocab import FIRST, PADDING, UNKNOWN

NOW_MS = 20_000 * DAY_MS
NUM_ROWS = 8
A, B, C, D = range(FIRST, FIRST + 4)  # item rows
DRAMA, COMEDY, CRIME = range(FIRST, FIRST + 3)  # values of a category
NO_CATEGORIES = np.zeros((NUM_ROWS, 0, 1), dtype=np.int64)
NO_NUMBERS = np.zeros((NUM_ROWS, 0), dtype=np.float32)


def rows(*histories: list[int], length: int = 7) -> NDArray[np.int64]:
    """[N, L], padded on the left."""
    return np.array([[PADDING] * (length - len(history)) + history for history in histories], dtype=np.int64)


# ---- names


def test_names_stand_in_the_order_of_their_values():
    names = ranker_feature_names(retrievers=("towers", "ease"), item_categories=("genres",), item_numbers=("year",))
    assert names[:6] == (
        "towers_score",
        "towers_z_score",
        "towers_log_rank",
        "ease_score",
        "ease_z_score",
        "ease_log_rank",
    )
    assert names[6 : 6 + len(STATISTICS)] == tuple(f"item_{name}" for name in STATISTICS)
    rest = names[6 + len(STATISTICS) :]
    assert rest[: len(CONTEXT)] == tuple(f"query_{name}" for name in CONTEXT)
    assert rest[len(CONTEXT) :] == (
        "genres_affinity_long",
        "genres_affinity_short",
        "year_difference",
        "repeat_count",
        "last_seen_days",
    )


# ---- retrievers


def retrieved(
    scores: list[list[float]], ranks: list[list[int]] | None = None, *, num_present: int | None = None
) -> NDArray[np.float32]:
    """[C, K, 3] of one list; `scores` are [C, K], and so are `ranks`; without these nobody brought anything."""
    present = np.arange(len(scores)) < (len(scores) if num_present is None else num_present)
    made = retriever_features(
        np.array([scores], dtype=np.float32), np.array([ranks or np.zeros_like(scores, dtype=np.int64)]), present[None]
    )
    return made.reshape(len(scores), -1, 3)


def test_a_score_comes_with_its_deviation_from_the_list_and_the_log_of_its_rank():
    made = retrieved([[3.0, 0.5], [1.0, 0.5], [2.0, 0.9]], [[1, 7], [3, 0], [2, 2000]])
    assert made[:, 0, 0].tolist() == [3, 1, 2]
    # mean 2, deviation sqrt((1 + 1 + 0) / 3)
    np.testing.assert_allclose(made[:, 0, 1], np.array([1, -1, 0]) / math.sqrt(2 / 3), rtol=1e-6)
    np.testing.assert_allclose(made[:, 0, 2], np.log([1, 3, 2]), rtol=1e-6)
    # What a retriever did not bring stands as low as what it brought last of all.
    np.testing.assert_allclose(made[:, 1, 2], np.log([7, NOT_BROUGHT, NOT_BROUGHT]), rtol=1e-6)


def test_a_retriever_that_knows_nothing_says_nothing():
    made = retrieved([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert made[:, 1, 1].tolist() == [0, 0, 0]
    assert len(set(made[:, 1, 2].tolist())) == 1


@given(st.floats(-100, 100, width=32), st.integers(1, 200))
def test_equal_scores_deviate_by_nothing_and_not_by_a_rounding_error(score, count):
    # In fp32 the mean of a hundred 3.7 is 3.7000010, and each would stand 0.95 deviations below it.
    assert not retrieved([[score]] * count)[:, 0, 1].any()


def test_padding_is_left_out_of_means_and_was_brought_by_nobody():
    made = retrieved([[-3.0], [-1.0], [0.0], [0.0]], [[2], [1], [3], [0]], num_present=2)
    np.testing.assert_allclose(made[:, 0, 1], [-1, 1, 0, 0], rtol=1e-6)  # mean -2, deviation 1
    np.testing.assert_allclose(made[:, 0, 2], np.log([2, 1, NOT_BROUGHT, NOT_BROUGHT]), rtol=1e-6)


# ---- statistics


def statistics(seed: int = 1) -> ItemStatistics:
    values = np.random.default_rng(seed).integers(0, 50, size=(3, NUM_ROWS, len(STATISTICS))).astype(np.float32)
    return ItemStatistics(ticks_at_ms=np.array([NOW_MS - DAY_MS, NOW_MS, NOW_MS + DAY_MS]), values=values)


def test_item_statistics_are_those_of_the_last_tick_before_the_request():
    instants = np.array([NOW_MS - DAY_MS, NOW_MS - 1, NOW_MS, NOW_MS + 5 * DAY_MS])
    made = statistics_features(instants, np.full((4, 1), C), statistics())
    for place, name in enumerate(STATISTICS):
        raw = statistics().values[[0, 0, 1, 2], C, place]
        expected = raw if name == "value_mean" else np.log1p(raw)
        np.testing.assert_allclose(made[:, 0, place], expected, rtol=1e-6, err_msg=name)


def test_statistics_of_later_ticks_change_nothing():
    values = statistics().values.copy()
    values[2] += 1000.0
    later = replace(statistics(), values=values)
    asked = np.array([NOW_MS]), np.array([[A, B]])
    np.testing.assert_array_equal(statistics_features(*asked, later), statistics_features(*asked, statistics()))


# ---- affinity


def affinity_of(
    history: list[int], candidates: list[int], genres: dict[int, list[int]], *, places: int = 3
) -> tuple[list[float], list[float]]:
    """Affinities of the candidates over the whole history and over its newest events."""
    categories = np.zeros((NUM_ROWS, 1, places), dtype=np.int64)
    for row, values in genres.items():
        categories[row, 0, : len(values)] = values
    made = affinity_features(rows(history), np.array([candidates]), categories=categories, numbers=NO_NUMBERS)
    return made[0, :, 0].tolist(), made[0, :, 1].tolist()


def test_affinity_is_the_share_of_the_history_with_the_candidates_values():
    genres = {A: [DRAMA], B: [COMEDY], C: [DRAMA, COMEDY], D: [CRIME]}
    long, _ = affinity_of([A, A, A, A, B], [A, B, C, D], genres)
    # 4 of 5 events are drama, 1 is comedy; C has both and gets their mean; nothing had D's genre
    np.testing.assert_allclose(long, [0.8, 0.2, 0.5, 0.0], rtol=1e-6)


def test_the_short_affinity_looks_at_the_last_five_events():
    long, short = affinity_of([A, A, B, B, B, B, B], [A, B], {A: [DRAMA], B: [COMEDY]})
    np.testing.assert_allclose(long, [2 / 7, 5 / 7], rtol=1e-6)
    np.testing.assert_allclose(short, [0.0, 1.0])


def test_padding_and_unknown_values_are_nothing_in_common():
    long, _ = affinity_of([A, B, C], [A, B, C, UNKNOWN], {A: [UNKNOWN], B: [UNKNOWN, DRAMA], C: []})
    # only B's drama is known, and one event of three had it
    np.testing.assert_allclose(long, [0, 1 / 3, 0, 0], rtol=1e-6)


def test_a_query_without_history_has_nothing_in_common_with_an_item():
    assert affinity_of([], [A], {A: [DRAMA]}) == ([0.0], [0.0])


def difference_of(history: list[int], candidates: list[int], numbers: dict[int, float]) -> NDArray[np.float32]:
    values = np.zeros((NUM_ROWS, 1), dtype=np.float32)
    for row, value in numbers.items():
        values[row] = value
    made = affinity_features(rows(history), np.array([candidates]), categories=NO_CATEGORIES, numbers=values)
    return made[0, :, 0]


def test_a_numbers_difference_is_taken_from_the_mean_of_the_last_five_events():
    # the last five are B B B B C: mean (4 * 1 + 2) / 5 = 1.2
    made = difference_of([A, A, B, B, B, B, C], [A, C], {A: 5.0, B: 1.0, C: 2.0})
    np.testing.assert_allclose(made, [3.8, 0.8], rtol=1e-6)


def test_a_history_shorter_than_five_is_averaged_over_what_there_is():
    np.testing.assert_allclose(difference_of([A, B], [C], {A: 4.0, B: 1.0, C: 0.5}), [2.0])
    np.testing.assert_allclose(difference_of([], [C], {C: 0.5}), [0.5])  # from 0, which is the mean of all items


def test_a_catalogue_without_categories_and_numbers_has_no_affinities():
    made = affinity_features(rows([A], [B]), np.zeros((2, 3), np.int64), categories=NO_CATEGORIES, numbers=NO_NUMBERS)
    assert made.shape == (2, 3, 0)
    assert made.dtype == np.float32


def slow_affinity(history: list[int], candidate: int, *, categories: NDArray[np.int64], span: int) -> float:
    """Share of the history with each known value of the candidate, averaged over these values; one by one."""
    looked_at = [row for row in history[-span:] if row != PADDING]
    values = [value for value in categories[candidate].tolist() if value > UNKNOWN]
    shares = [sum(value in categories[row].tolist() for row in looked_at) / max(len(looked_at), 1) for value in values]
    return sum(shares) / max(len(values), 1)


def random_categories(generator: np.random.Generator) -> NDArray[np.int64]:
    """Up to 3 distinct values of each of two categories an item."""
    categories = np.zeros((NUM_ROWS, 2, 3), dtype=np.int64)
    for row in range(FIRST, NUM_ROWS):
        for column in range(2):
            count = generator.integers(0, 4)
            categories[row, column, :count] = generator.permutation(np.arange(UNKNOWN, 5))[:count]
    return categories


item_rows = st.integers(UNKNOWN, NUM_ROWS - 1)
histories = st.lists(st.lists(item_rows, max_size=7), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(histories, st.integers(0, 2**32 - 1))
def test_affinities_and_differences_equal_a_slow_recomputation(histories, seed):
    generator = np.random.default_rng(seed)
    categories = random_categories(generator)
    numbers = generator.normal(size=(NUM_ROWS, 1)).astype(np.float32)
    candidates = generator.integers(0, NUM_ROWS, size=(len(histories), 5))
    made = affinity_features(rows(*histories), candidates, categories=categories, numbers=numbers)
    for n, history in enumerate(histories):
        recent = [float(numbers[row, 0]) for row in history[-5:]]
        for c, candidate in enumerate(candidates[n].tolist()):
            expected = [
                slow_affinity(history, candidate, categories=categories[:, column], span=span)
                for column in range(2)
                for span in (7, 5)
            ]
            difference = abs(float(numbers[candidate, 0]) - sum(recent) / max(len(recent), 1))
            np.testing.assert_allclose(made[n, c], [*expected, difference], rtol=1e-6, atol=1e-7)


# ---- repeats


def repeated(seen: list[tuple[int, float]], candidates: list[int]) -> tuple[list[float], list[float]]:
    """Times and days since, of each candidate; `seen` are (row, age), newest first."""
    seen_rows = np.array([[row for row, _ in seen]], dtype=np.int64).reshape(1, -1)
    ages = np.array([[age for _, age in seen]], dtype=np.float32).reshape(1, -1)
    made = np.expm1(repeat_features(seen_rows, ages, np.array([candidates])).astype(np.float64))
    return made[0, :, 0].round(4).tolist(), made[0, :, 1].round(2).tolist()


def test_a_candidate_knows_how_often_its_query_had_it_and_how_long_ago():
    counts, days = repeated([(B, 1.5), (A, 2.0), (B, 7.0), (B, 30.0)], [A, B, C])
    assert counts == [1, 3, 0]
    assert days == [2, 1.5, MAX_IDLE_DAYS]


def test_what_was_had_this_instant_is_told_apart_from_what_was_never_had():
    assert repeated([(A, 0.0)], [A, B]) == ([1, 0], [0, MAX_IDLE_DAYS])


def test_unknown_items_and_padding_are_never_repeats():
    seen = [(UNKNOWN, 1.0), (UNKNOWN, 2.0), (PADDING, 0.0)]
    assert repeated(seen, [UNKNOWN, PADDING, A]) == ([0, 0, 0], [MAX_IDLE_DAYS] * 3)


def test_a_query_without_history_repeats_nothing():
    assert repeated([], [A, B]) == ([0, 0], [MAX_IDLE_DAYS] * 2)


def test_no_queries_and_no_candidates_give_no_rows():
    none = np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.float32)
    assert repeat_features(*none, np.zeros((0, 4), dtype=np.int64)).shape == (0, 4, 2)
    one = np.array([[A]]), np.ones((1, 1), dtype=np.float32)
    assert repeat_features(*one, np.zeros((1, 0), dtype=np.int64)).shape == (1, 0, 2)


seen_events = st.lists(st.tuples(st.integers(0, NUM_ROWS - 1), st.floats(0, 365, width=32)), min_size=6, max_size=6)


@given(st.lists(seen_events, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_repeats_equal_a_slow_search_through_each_querys_own_history(seen, seed):
    newest_first = [sorted(events, key=lambda event: event[1]) for events in seen]
    candidates = np.random.default_rng(seed).integers(0, NUM_ROWS, size=(len(seen), 5))
    made = repeat_features(
        np.array([[row for row, _ in events] for events in newest_first]),
        np.array([[age for _, age in events] for events in newest_first], dtype=np.float32),
        candidates,
    )
    for n, events in enumerate(newest_first):
        for c, candidate in enumerate(candidates[n].tolist()):
            ages = [age for row, age in events if row == candidate and row >= FIRST]
            expected = [math.log1p(len(ages)), math.log1p(min(ages, default=MAX_IDLE_DAYS))]
            np.testing.assert_allclose(made[n, c], expected, rtol=1e-6)
