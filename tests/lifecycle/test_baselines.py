from collections.abc import Callable

import numpy as np
import pytest

from evaluation.lists import RankedLists
from features.dataset import Dataset
from features.spec import FeatureColumns, TextLayout
from features.transforms import QueryInputs, query_inputs
from lifecycle.baselines import baseline_lists
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
NAMES = ["popularity", "recent_popularity", "item_knn", "ease", "ease_recency", "transitions", "transitions_ease"]
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


def inputs_before_test(dataset: Dataset) -> QueryInputs:
    """The queries before their test events."""
    return query_inputs(
        dataset.before(dataset.events.places(["test"]), length=None),
        spec=COLUMNS.spec(text=TextLayout(), ranker_features=()),
        vocabularies=dataset.fit_vocabularies(["train"], columns=COLUMNS),
        catalogue=dataset.items.catalogue,
    )


def lists_of(dataset: Dataset, cut: Cut, *, k: int = 8) -> dict[str, RankedLists]:
    num_rows = len(dataset.items.catalogue)
    return dict(baseline_lists(dataset, cut, inputs_before_test(dataset), num_rows=num_rows, k=k))


def shown(lists: RankedLists, dataset: Dataset, query: int) -> list[str]:
    return [dataset.items.catalogue.item_id(int(row)) for row in lists.rows[query] if row]


def test_there_is_one_list_a_query_and_baseline(dataset: Dataset) -> None:
    lists = lists_of(dataset, REFIT)
    assert list(lists) == NAMES
    assert {own.rows.shape for own in lists.values()} == {(5, 8)}


def test_popularity_counts_the_events_that_the_cut_knows(dataset: Dataset) -> None:
    # old 6 events, new 2, both 2, rare 1, late 1 (validation), today 1; equals keep the order of the catalogue
    popularity = lists_of(dataset, REFIT)["popularity"]
    assert shown(popularity, dataset, 0) == ["rare", "late", "today"]  # q1 had old, new, both
    assert shown(popularity, dataset, 1) == ["both", "today"]  # q2 had old, new, rare, late
    assert shown(popularity, dataset, 3) == ["new", "both", "rare", "late", "today"]  # q4 had old
    assert popularity.scores[3, :3].tolist() == [2.0, 2.0, 1.0]
    # The fold does not know the validation event of `late`.
    assert shown(lists_of(dataset, FOLD)["popularity"], dataset, 3) == ["new", "both", "rare", "today"]


def test_recent_popularity_counts_the_month_before_the_day_of_the_request(dataset: Dataset) -> None:
    # Days 70 to 99: new 90 and 92 (98 is a test event), both 91 and 94, rare 93, late 95; old is too old, and today's
    # event comes too late.
    recent = lists_of(dataset, REFIT)["recent_popularity"]
    places = [ITEM_IDS.index(item_id) + 2 for item_id in ("new", "both", "rare", "late")]
    assert recent.rows[3, :4].tolist() == places
    assert recent.scores[3, :4].tolist() == [2.0, 2.0, 1.0, 1.0]
    today = recent.rows[3].tolist().index(ITEM_IDS.index("today") + 2)
    assert recent.scores[3, today] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_no_baseline_shows_what_a_query_had_or_what_the_cut_does_not_know(dataset: Dataset, name: str) -> None:
    for cut, unknown in ((REFIT, {"only_test", "nobodys"}), (FOLD, {"only_test", "nobodys", "late"})):
        lists = lists_of(dataset, cut)[name]
        for query, place in enumerate(dataset.events.places(["test"])):
            history = dataset.before(np.array([place]), length=None).history_item_ids[0]
            items = shown(lists, dataset, query)
            assert set(items) & {*history, *unknown, ""} == set()
            assert len(set(items)) == len(items)


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_as_long_as_asked_and_their_scores_fall(dataset: Dataset, name: str) -> None:
    lists, long = lists_of(dataset, REFIT, k=2)[name], lists_of(dataset, REFIT)[name]
    assert lists.rows.shape == (5, 2)
    np.testing.assert_array_equal(lists.rows, long.rows[:, :2])
    assert (long.scores[:, 1:] <= long.scores[:, :-1]).all()


def test_neighbours_of_the_history_come_before_strangers(dataset: Dataset) -> None:
    # q3 had old, both and today: `new` was had with old by q1 and q2, and with both by q1.
    lists = lists_of(dataset, REFIT)
    for name in ("item_knn", "ease", "transitions_ease"):
        assert shown(lists[name], dataset, 2)[0] == "new", name
