from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evaluation.lists import RankedLists
from features.columns import FeatureColumns
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.spec import TextLayout
from features.split import TimeSplit
from features.transforms import query_inputs
from lifecycle.baselines import ONLY_REPEATS, Baselines
from lifecycle.cuts import FOLD, REFIT, Cut

# Test events are on day 100, but that of q5; `late` stands in a validation event, `only_test` in a test event alone.
EVENTS = [
    *[("q1", item_id, day, "train") for item_id, day in (("old", 1), ("new", 90), ("both", 91))],
    ("q1", "only_test", 100, "test"),
    *[("q2", item_id, day, "train") for item_id, day in (("old", 2), ("new", 92), ("rare", 93))],
    ("q2", "late", 95, "validation"),
    ("q2", "only_test", 100, "test"),
    *[("q3", item_id, day, "train") for item_id, day in (("old", 3), ("both", 94))],
    ("q3", "today", 100.2, "train"),
    ("q3", "rare", 100.5, "test"),
    *[("q4", "old", 4, "train"), ("q4", "old", 5, "train"), ("q4", "rare", 100, "test")],
    *[("q5", "old", 6, "train"), ("q5", "new", 98, "test")],
]
ITEM_IDS = ["old", "new", "both", "rare", "late", "only_test", "today", "nobodys"]
NAMES = [
    *("popularity", "recent_popularity", "popularity_7d", "item_knn", "ease", "ease_recency", "ials", "transitions"),
    *("transitions_ease", "ease_popularity_7d", "query_knn"),
]
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("colour",),
    item_numbers=("size",),
    item_texts=("title",),
    history_length=2,  # shorter than histories here: what is older than that is excluded all the same
)


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=ITEM_IDS)


def lists_of(
    dataset: Dataset, cut: Cut, protocol: RequestProtocol, *, k: int = 8, exclude_seen: Sequence[bool] = (True,)
) -> dict[bool, dict[str, RankedLists]]:
    """Of the requests of the test split."""
    asked = protocol.asked(dataset, "test")
    inputs = query_inputs(
        asked.states(dataset, length=1000),
        spec=COLUMNS.spec(text=TextLayout(), ranker_features=()),
        vocabularies=dataset.fit_vocabularies(["train"], columns=COLUMNS),
        catalogue=dataset.items.catalogue,
    )
    return Baselines.fit(dataset, protocol, cut).lists(asked, inputs, exclude_seen=exclude_seen, k=k)


@pytest.fixture(scope="module")
def refit(dataset: Dataset, leave_one_out: RequestProtocol) -> dict[str, RankedLists]:
    return lists_of(dataset, REFIT, leave_one_out)[True]


@pytest.fixture(scope="module")
def fold(dataset: Dataset, leave_one_out: RequestProtocol) -> dict[str, RankedLists]:
    return lists_of(dataset, FOLD, leave_one_out)[True]


def shown(lists: RankedLists, dataset: Dataset, query: int) -> list[str]:
    return [dataset.items.catalogue.item_id(int(row)) for row in lists.rows[query] if row]


def test_there_is_one_list_a_query_and_baseline(refit: dict[str, RankedLists]) -> None:
    assert list(refit) == NAMES
    assert {own.rows.shape for own in refit.values()} == {(5, 8)}


def test_popularity_counts_the_queries_whose_events_the_cut_knows(
    dataset: Dataset, refit: dict[str, RankedLists], fold: dict[str, RankedLists]
) -> None:
    # old 5 queries (q4 twice), new 2, both 2, rare 1, late 1 (validation), today 1; equals keep the catalogue's order
    popularity = refit["popularity"]
    assert shown(popularity, dataset, 0) == ["rare", "late", "today"]  # q1 had old, new, both
    assert shown(popularity, dataset, 1) == ["both", "today"]  # q2 had old, new, rare, late
    assert shown(popularity, dataset, 3) == ["new", "both", "rare", "late", "today"]  # q4 had old
    assert popularity.scores[3, :3].tolist() == [2.0, 2.0, 1.0]
    # The fold does not know the validation event of `late`.
    assert shown(fold["popularity"], dataset, 3) == ["new", "both", "rare", "today"]


def test_recent_popularity_counts_the_days_before_the_day_of_the_request(refit: dict[str, RankedLists]) -> None:
    # Days 70 to 99: new 90 and 92 (98 is a test event), both 91 and 94, rare 93, late 95; old is too old, and today's
    # event comes too late.
    recent = refit["recent_popularity"]
    places = [ITEM_IDS.index(item_id) + 2 for item_id in ("new", "both", "rare", "late")]
    assert recent.rows[3, :4].tolist() == places
    assert recent.scores[3, :4].tolist() == [2.0, 2.0, 1.0, 1.0]
    today = recent.rows[3].tolist().index(ITEM_IDS.index("today") + 2)
    assert recent.scores[3, today] == 0.0
    # Days 93 to 99: both 94, rare 93, late 95.
    week = refit["popularity_7d"]
    assert week.rows[3, :3].tolist() == [ITEM_IDS.index(item_id) + 2 for item_id in ("both", "rare", "late")]
    assert week.scores[3, :4].tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_no_baseline_shows_what_a_query_had_or_what_the_cut_does_not_know(
    dataset: Dataset, refit: dict[str, RankedLists], fold: dict[str, RankedLists], name: str
) -> None:
    for lists, unknown in ((refit[name], {"only_test", "nobodys"}), (fold[name], {"only_test", "nobodys", "late"})):
        for query, place in enumerate(dataset.events.places(["test"])):
            history = dataset.before(np.array([place]), length=None).history_item_ids[0]
            items = shown(lists, dataset, query)
            assert set(items) & {*history, *unknown, ""} == set()
            assert len(set(items)) == len(items)


@pytest.fixture(scope="module")
def short(dataset: Dataset, leave_one_out: RequestProtocol) -> dict[str, RankedLists]:
    return lists_of(dataset, REFIT, leave_one_out, k=2)[True]


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_as_long_as_asked_and_their_scores_fall(
    short: dict[str, RankedLists], refit: dict[str, RankedLists], name: str
) -> None:
    assert short[name].rows.shape == (5, 2)
    np.testing.assert_array_equal(short[name].rows, refit[name].rows[:, :2])
    assert (refit[name].scores[:, 1:] <= refit[name].scores[:, :-1]).all()


def test_neighbours_of_the_history_come_before_strangers(dataset: Dataset, refit: dict[str, RankedLists]) -> None:
    # q3 had old, both and today: `new` was had with old by q1 and q2, and with both by q1.
    for name in ("item_knn", "ease", "ials", "transitions_ease", "query_knn"):
        assert shown(refit[name], dataset, 2)[0] == "new", name


def test_requests_are_scored_alike_together_and_in_batches(
    dataset: Dataset, leave_one_out: RequestProtocol, refit: dict[str, RankedLists], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifecycle.baselines.BATCH_SIZE", 2)
    for name, lists in lists_of(dataset, REFIT, leave_one_out)[True].items():
        np.testing.assert_array_equal(lists.rows, refit[name].rows, err_msg=name)
        np.testing.assert_allclose(lists.scores, refit[name].scores, atol=1e-5, err_msg=name)


# Test begins on day 100. h has milk often and bread once, long ago; g shares milk with it and has salt besides.
BASKETS = [
    *[("h", item_id, day, "train") for item_id, day in (("bread", 40), ("milk", 40), ("milk", 80), ("milk", 90))],
    *[("g", item_id, day, "train") for item_id, day in (("milk", 60), ("salt", 60))],
    *[("h", item_id, day, "test") for item_id, day in (("milk", 100), ("salt", 110), ("milk", 120))],
]


@pytest.fixture(scope="module")
def groceries(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(BASKETS, item_ids=["bread", "milk", "salt", "tea"])


@pytest.fixture(scope="module")
def baskets(groceries: Dataset, by_time: RequestProtocol) -> dict[bool, dict[str, RankedLists]]:
    """Of the one request, by h on day 100."""
    return lists_of(groceries, REFIT, by_time, exclude_seen=(False, True))


def test_where_things_are_had_again_the_more_often_and_recently_had_come_first(
    groceries: Dataset, baskets: dict[bool, dict[str, RankedLists]]
) -> None:
    with_seen = baskets[False]
    assert list(with_seen) == [*NAMES, *ONLY_REPEATS]
    assert shown(with_seen["repeat_count"], groceries, 0) == ["milk", "bread", "salt"]
    assert with_seen["repeat_count"].scores[0, :3].tolist() == [3.0, 1.0, 0.0]
    # Half-lives of 120 days: milk 60, 20 and 10 days ago, bread 60.
    decayed = [2 ** (-60 / 120) + 2 ** (-20 / 120) + 2 ** (-10 / 120), 2 ** (-60 / 120), 0.0]
    assert with_seen["decayed_repeats"].scores[0, :3].tolist() == pytest.approx(decayed)
    assert "milk" in shown(with_seen["popularity"], groceries, 0)


def test_lists_without_what_a_query_had_hold_no_repeats(
    groceries: Dataset, baskets: dict[bool, dict[str, RankedLists]]
) -> None:
    assert list(baskets[True]) == NAMES
    assert {tuple(shown(own, groceries, 0)) for own in baskets[True].values()} == {("salt",)}


def test_items_that_too_few_queries_had_are_in_no_list(groceries: Dataset) -> None:
    protocol = RequestProtocol(split=TimeSplit(), repeats=True, min_item_queries=2)
    lists = lists_of(groceries, REFIT, protocol, exclude_seen=(False,))
    assert {tuple(shown(own, groceries, 0)) for own in lists[False].values()} == {("milk",)}
