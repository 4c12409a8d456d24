from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.labels import ActionLabels, RatingLabels
from features.split import TimeSplit
from lifecycle.data_report.counts import (
    Spread,
    by_rank,
    cold,
    concentration,
    cost_of_labels,
    histogram,
    label_sources,
    repeats,
    spread,
)
from lifecycle.data_report.log import Log


def rows(table: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(table.itertuples(index=False, name=None))


def test_events_are_counted_by_item_the_most_first() -> None:
    items = spread(np.array([3, 1, 3, 3, 1, 0], dtype=np.int32), num_known=6)
    assert items.counts.tolist() == [3, 2, 1]
    assert (items.num_events, items.num_without) == (6, 3)


def test_the_top_share_of_items_is_rounded_up() -> None:
    items = Spread(counts=np.array([50, 20, 10, 5, 5, 4, 3, 1, 1, 1]), num_without=0)
    # of 10 items the top 1 % and the top 10 % are one, with 50 of 100 events; the top 20 % are two, with 70
    assert [items.num_top(share) for share in (0.01, 0.1, 0.2)] == [1, 1, 2]
    assert [items.top(share) for share in (0.01, 0.1, 0.2)] == [0.5, 0.5, 0.7]


def test_gini_matches_hand_computation() -> None:
    # ascending 1, 1, 2: 2 (1 * 1 + 2 * 1 + 3 * 2) / (3 * 4) - 4 / 3 = 1.5 - 1.3333
    assert Spread(counts=np.array([2, 1, 1]), num_without=0).gini == pytest.approx(1 / 6)
    assert Spread(counts=np.array([5, 5, 5]), num_without=0).gini == pytest.approx(0.0)
    assert Spread(counts=np.array([7]), num_without=0).gini == pytest.approx(0.0)


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    counts = np.sort(np.random.default_rng(0).integers(1, 100, 40))[::-1]
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    assert Spread(counts=counts, num_without=0).gini == pytest.approx(differences / (2 * counts.mean()))


def test_quantiles_are_numbers_of_events_that_somebody_has() -> None:
    queries = Spread(counts=np.array([40, 4, 3, 2, 1]), num_without=0)
    assert [queries.quantile(share) for share in (0.1, 0.5, 0.9)] == [1, 3, 40]
    assert queries.at_most(3) == 0.6


def test_curves_go_through_every_item_where_there_are_few() -> None:
    items = Spread(counts=np.array([6, 3, 1]), num_without=0)
    assert rows(by_rank(items)) == [(1, 6), (2, 3), (3, 1)]
    assert rows(concentration(items)) == [(0, 0), (1 / 3, 0.6), (2 / 3, 0.9), (1, 1)]


def test_a_histogram_doubles_its_bars_and_counts_each_once() -> None:
    lengths = Spread(counts=np.array([8, 7, 4, 3, 2, 1, 1]), num_without=0)
    assert rows(histogram(lengths)) == [(1, 1, 2), (2, 3, 2), (4, 7, 2), (8, 15, 1)]


# In time: 6 train, 1 ranking, 1 validation, 2 test. p is new in test, q repeats a there; c appears in ranking alone.
TIMED = [
    ("q", "a", 0),
    ("q", "b", 1),
    ("r", "a", 2),
    ("r", "b", 3),
    ("s", "a", 4),
    ("s", "a", 5),
    ("s", "c", 6),
    ("r", "d", 7),
    ("q", "a", 8),
    ("p", "c", 9),
]
IN_TIME = TimeSplit(train=0.6, ranking=0.1, validation=0.1)


def test_who_is_cold_and_what_is_unseen_is_counted_by_what_a_cut_knows(log_of: Callable[..., Log]) -> None:
    # Validation: r is known, its item d is not. Test: p is cold for both cuts; c was seen in ranking alone.
    columns = ["split", "known", "num_targets", "num_queries", "num_cold_queries", "num_unseen"]
    assert rows(cold(log_of(TIMED, split=IN_TIME))[columns]) == [
        ("validation", "fold", 1, 1, 0, 1),
        ("test", "fold", 2, 2, 1, 1),
        ("test", "refit", 2, 2, 1, 0),
    ]


def test_repeats_and_first_events_are_those_of_a_query_s_own_history(log_of: Callable[..., Log]) -> None:
    # Train: the second a of s repeats, and q, r and s begin. Test: a repeats for q, and p begins.
    assert rows(repeats(log_of(TIMED, split=IN_TIME))) == [
        ("train", 6, 1, 3),
        ("ranking", 1, 0, 0),
        ("validation", 1, 0, 0),
        ("test", 2, 1, 1),
    ]


def test_an_event_that_says_no_is_no_target(log_of: Callable[..., Log]) -> None:
    kinds = [(*row, "skip" if place == 9 else "view") for place, row in enumerate(TIMED)]
    log = log_of(kinds, split=IN_TIME, labels=ActionLabels(relevance={"view": 1, "skip": 0}))
    test = cold(log).set_index(["split", "known"]).loc[("test", "refit")]
    assert (test["num_targets"], test["num_cold_queries"]) == (1, 0)  # the skip of p is not asked for
    assert rows(label_sources(log))[-2:] == [
        ("test", "implicit", "skipped", 1),
        ("test", "implicit", "positive", 1),
    ]


def test_labels_are_counted_by_split_source_and_what_they_say(log_of: Callable[..., Log]) -> None:
    rated = [(*row, "rating", 5.0 if place % 2 else 1.0) for place, row in enumerate(TIMED)]
    assert rows(label_sources(log_of(rated, split=IN_TIME, labels=RatingLabels(threshold=4)))) == [
        ("train", "explicit", "negative", 3),
        ("train", "explicit", "positive", 3),
        ("ranking", "explicit", "negative", 1),
        ("validation", "explicit", "positive", 1),
        ("test", "explicit", "negative", 1),
        ("test", "explicit", "positive", 1),
    ]
    kinds = [(*row, "view" if place else "hover") for place, row in enumerate(TIMED)]
    assumed = log_of(kinds, split=IN_TIME, labels=ActionLabels(relevance={"view": 1}, otherwise=0))
    assert rows(label_sources(assumed))[0] == ("train", "assumed", "skipped", 1)


def test_labels_for_an_interval_follow_the_normal_approximation() -> None:
    # 1.95996^2 * 0.25 / 0.05^2 = 384.1, so 385; with 1 in 10 relevant 1.95996^2 * 0.09 / 0.05^2 = 138.3, so 139
    table = cost_of_labels().set_index("width")
    assert table.loc[0.1].tolist() == [385, 139]
