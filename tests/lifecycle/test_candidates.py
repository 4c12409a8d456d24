from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.pairs import ranker_feature_names
from features.protocol import RequestProtocol
from features.requests import PastRequests, each_event, each_stretch
from features.spec import DAY_MS, TextLayout
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.transforms import QueryInputs, RankerInputs, item_inputs
from lifecycle.candidates import Requests, StageOne
from lifecycle.cuts import FOLD
from lifecycle.training_tables import neighbour_tables
from ranking.data import RankerLists
from serving.models import TowerArrays
from serving.retrieval import RETRIEVERS, SCORES, Stage1
from towers.index.build import FlatBuilder
from towers.index.snapshot import Snapshot
from towers.retrievers.blend import Blend
from towers.retrievers.fusion import Fusion
from towers.retrievers.new_items import NewItems

ITEM_IDS = [f"i{number}" for number in range(12)]
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("colour",),
    item_numbers=("size",),
    item_texts=("title",),
    history_length=4,
    min_category_count=1,
)
# Three queries walk through the items, half a day an event; the ranker learns from the event on day 3.
EVENTS = [
    (f"q{query}", ITEM_IDS[(2 * query + place) % 12], place / 2, "train", 1.0 + (query + place) % 5)
    for query in range(3)
    for place in range(6)
] + [(f"q{query}", ITEM_IDS[(2 * query + 6) % 12], 3.25, "ranking", 4.0) for query in range(3)]
# Of an earlier day, but not among the events that the fold knows.
EVENTS += [("r0", ITEM_IDS[7], 1.0, "validation", 5.0), ("r1", ITEM_IDS[9], 1.0, "test", 1.0)]


class MeanTower:
    """A query tower without weights."""

    def query_tower(self, inputs: TowerArrays) -> NDArray[np.float32]:
        return (inputs.history_embeddings * inputs.history_mask[:, :, None]).mean(axis=1)

    def ranker(self, inputs: RankerInputs) -> NDArray[np.float32]:
        raise AssertionError("candidates need no ranker")


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=ITEM_IDS)


@pytest.fixture(scope="module")
def stage_one(dataset: Dataset, leave_one_out: RequestProtocol, tmp_path_factory: pytest.TempPathFactory) -> StageOne:
    """Fitted on the fold of EVENTS, once; later events come to be known, but not to the models."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "film": 4}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    names = ranker_feature_names(retrievers=SCORES, item_categories=("colour",), item_numbers=("size",))
    spec = COLUMNS.spec(text=TextLayout(history_items=1, history_tokens=2, candidate_tokens=2), ranker_features=names)
    vocabularies = dataset.fit_vocabularies(FOLD.splits, columns=COLUMNS)
    embeddings = np.random.default_rng(0).normal(size=(len(ITEM_IDS) + 2, 4)).astype(np.float32)
    embeddings[:2] = 0.0
    linear, blend = np.zeros((len(embeddings), 0), np.float32), Blend()
    statistics = np.zeros((1, len(embeddings), len(STATISTICS)), np.float32)
    stage1 = Stage1(
        spec=spec,
        vocabularies=vocabularies,
        catalogue=dataset.items.catalogue,
        items=item_inputs(dataset.items, spec=spec, vocabularies=vocabularies, tokenizer=TextTokenizer(path)),
        item_embeddings=embeddings,
        linear_embeddings=linear,
        text_embeddings=linear,
        blend=blend,
        new_items=NewItems.none(),
        recommendable=np.arange(len(embeddings)) >= 2,
        statistics=ItemStatistics(ticks_at_ms=np.zeros(1, np.int64), values=statistics),
        snapshot=Snapshot(
            FlatBuilder().build(
                blend.item_embeddings(embeddings, linear, linear, statistics[0])[2:], np.arange(2, len(embeddings))
            )
        ),
        neighbours=neighbour_tables(dataset, leave_one_out, FOLD),
        fusion=Fusion.unweighted(dict.fromkeys(RETRIEVERS, 12)),
        tokenizer=TextTokenizer(path),
    )
    return StageOne(cut=FOLD, stage1=stage1, models=MeanTower())  # type: ignore[arg-type]


def answered(stage_one: StageOne, dataset: Dataset, asked: PastRequests | None = None) -> Requests:
    """The requests of the ranking events, unless others are given."""
    asked = asked or each_event(dataset, "ranking")
    return stage_one.ask(dataset, asked, days=dataset.days(FOLD.splits), num_candidates=8)


def lists_of(stage_one: StageOne, dataset: Dataset, *, num_ranked: int = 5) -> RankerLists:
    return stage_one.lists(answered(stage_one, dataset), days=dataset.days(FOLD.splits), num_ranked=num_ranked)


def test_a_request_is_a_query_strictly_before_its_event(stage_one: StageOne, dataset: Dataset) -> None:
    requests = answered(stage_one, dataset)
    rows = dataset.event_rows()
    for n, place in enumerate(requests.asked.stops):
        assert requests.asked.relevant[n].tolist() == [rows[place]]
        assert requests.inputs.requested_at_ms[n] == dataset.events.at_ms[place]
        assert requests.inputs.history_rows[n].tolist() == rows[place - 4 : place].tolist()


def test_candidates_are_new_to_their_query(stage_one: StageOne, dataset: Dataset) -> None:
    requests = answered(stage_one, dataset)
    for rows, seen in zip(requests.candidates.rows, requests.inputs.seen_rows, strict=True):
        found = rows[rows > 0]
        assert set(found) & set(seen) == set()
        assert len(found) == 12 - 6  # of 12 items a query has had 6
        assert rows[len(found) :].tolist() == [0, 0]


def test_what_is_left_out_can_be_said(stage_one: StageOne, dataset: Dataset) -> None:
    asked = each_event(dataset, "ranking")
    days = dataset.days(FOLD.splits)
    nothing = np.zeros((3, 0), dtype=np.int64)
    everything = stage_one.ask(dataset, asked, days=days, num_candidates=12, excluded=nothing)
    assert (np.sort(everything.candidates.rows) == np.arange(2, 14)).all()
    some = np.array([[2, 3], [4, 0], [0, 0]])
    two = stage_one.ask(dataset, asked, days=days, num_candidates=12, excluded=some)
    assert [sorted(set(range(2, 14)) - set(rows.tolist())) for rows in two.candidates.rows] == [[2, 3], [4], []]
    # What the query did is what it did, whatever is shown.
    np.testing.assert_array_equal(two.inputs.seen_rows, everything.inputs.seen_rows)


def test_what_is_left_out_is_said_of_every_request(stage_one: StageOne, dataset: Dataset) -> None:
    two = np.zeros((2, 1), dtype=np.int64)
    with pytest.raises(ValueError, match="each of 3 requests, got 2"):
        stage_one.ask(
            dataset, each_event(dataset, "ranking"), days=dataset.days(FOLD.splits), num_candidates=12, excluded=two
        )


def test_some_of_the_requests_are_those_requests(stage_one: StageOne, dataset: Dataset) -> None:
    requests, places = answered(stage_one, dataset), np.array([2, 0])
    some = requests.take(places)
    assert len(some) == 2
    np.testing.assert_array_equal(some.asked.stops, requests.asked.stops[places])
    np.testing.assert_array_equal(some.asked.relevant, requests.asked.relevant[places])
    np.testing.assert_array_equal(some.candidates.scores, requests.candidates.scores[places])
    np.testing.assert_array_equal(some.inputs.history_rows, requests.inputs.history_rows[places])
    np.testing.assert_array_equal(some.embeddings, requests.embeddings[places])


def test_requests_are_answered_alike_together_and_in_parts(
    stage_one: StageOne, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Histories of two and of four events, three queries each; without any, all items would be as near.
    days = each_stretch(dataset, "train", days=1)
    asked = days.take(np.flatnonzero(days.stops > dataset.events.offsets[days.queries]))
    whole = answered(stage_one, dataset, asked)
    assert whole.inputs.seen_rows.shape == (6, 4)
    monkeypatch.setattr("lifecycle.candidates.ASKED_AT_ONCE", 2)
    parts = answered(stage_one, dataset, asked)
    np.testing.assert_array_equal(parts.candidates.rows, whole.candidates.rows)
    np.testing.assert_allclose(parts.embeddings, whole.embeddings, rtol=1e-6)
    np.testing.assert_array_equal(parts.candidates.ranks, whole.candidates.ranks)
    np.testing.assert_allclose(parts.candidates.scores, whole.candidates.scores, rtol=1e-6)
    for field in fields(QueryInputs):
        np.testing.assert_array_equal(getattr(parts.inputs, field.name), getattr(whole.inputs, field.name))


def test_lists_hold_what_the_towers_make_of_their_queries(stage_one: StageOne, dataset: Dataset) -> None:
    embeddings = lists_of(stage_one, dataset).query_embeddings
    rows = dataset.event_rows()
    # MeanTower: the mean of the four newest items of a history, which all have as many
    expected = [
        stage_one.stage1.item_embeddings[rows[place - 4 : place]].mean(axis=0)
        for place in each_event(dataset, "ranking").stops
    ]
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    np.testing.assert_array_equal(stage_one.embeddings(dataset, each_event(dataset, "ranking")), embeddings)


def test_every_chosen_candidate_is_relevant_by_its_grade(stage_one: StageOne, dataset: Dataset) -> None:
    asked = each_event(dataset, "ranking")
    rows = dataset.event_rows()[asked.stops]
    # The first query chose two of the six items that it has not had, the second none that is shown.
    others = next(row for row in range(2, 14) if row not in {rows[0], *asked.seen_rows(dataset)[0].tolist()})
    several = replace(
        asked,
        relevant=np.array([[rows[0], others], [99, 0], [rows[2], 0]]),
        grades=np.array([[0.25, 2.0], [1.0, 0.0], [1.0, 0.0]], dtype=np.float32),
        had=np.zeros((3, 2), dtype=np.bool_),
    )
    lists = stage_one.lists(answered(stage_one, dataset, several), days=dataset.days(FOLD.splits), num_ranked=6)
    graded = [
        {int(row): float(grade) for row, grade in zip(*pair, strict=True) if grade}
        for pair in zip(lists.candidate_rows, lists.relevance, strict=True)
    ]
    assert graded == [{rows[0]: 0.25, others: 2.0}, {}, {rows[2]: 1.0}]
    assert lists.num_relevant.tolist() == [2, 1, 1]


def test_a_list_is_the_first_of_the_candidates_and_keeps_a_chosen_item_beyond_it_out(
    stage_one: StageOne, dataset: Dataset
) -> None:
    whole, short = (lists_of(stage_one, dataset, num_ranked=num) for num in (6, 2))
    np.testing.assert_array_equal(short.candidate_rows, whole.candidate_rows[:, :2])
    assert short.relevance.shape == (3, 2)
    np.testing.assert_array_equal(short.relevance, whole.relevance[:, :2])
    assert short.num_relevant.tolist() == [1, 1, 1]


def test_popularity_is_that_of_the_last_tick_from_the_splits_of_the_cut(stage_one: StageOne, dataset: Dataset) -> None:
    lists = lists_of(stage_one, dataset)
    counts = lists.dense[:, :, stage_one.stage1.spec.names("ranker", "number").index("item_count_all")]
    for n, row in np.ndindex(*lists.candidate_rows.shape):
        item_id = dataset.items.catalogue.item_id(int(lists.candidate_rows[n, row]))
        # Requests are made on day 3, so days 0 to 2 are known; the events of `ranking` are not the fold's.
        known = sum(event[1] == item_id and event[2] < 3 and event[3] == "train" for event in EVENTS)
        assert counts[n, row] == pytest.approx(np.log1p(known), abs=1e-6)


def test_a_candidate_is_as_popular_as_the_tick_of_its_request_knew(stage_one: StageOne, dataset: Dataset) -> None:
    # The same query on days 1 and 3, which know the events of days 0 and of days 0 to 2.
    asked = each_stretch(dataset, "train", days=1).take(np.array([1, 1]))
    asked = replace(asked, requested_at_ms=np.array([1, 3]) * DAY_MS)
    found = stage_one.ask(dataset, asked, days=dataset.days(FOLD.splits), num_candidates=12).candidates
    place = SCORES.index("popularity")
    for n, day in enumerate((1, 3)):
        for row, score in zip(found.rows[n], found.scores[n, :, place], strict=True):
            item_id = dataset.items.catalogue.item_id(int(row)) if row else None
            known = sum(event[1] == item_id and event[2] < day and event[3] == "train" for event in EVENTS)
            # all within the week, and so within the month too
            assert score == pytest.approx(np.log1p(known * (1 + 1 / 30)), abs=1e-6)
    assert found.scores[0, :, place].sum() < found.scores[1, :, place].sum()


@settings(deadline=None, max_examples=40)
@given(
    later=st.lists(
        st.tuples(
            st.sampled_from(["q0", "q1", "q2", "new"]),
            st.sampled_from(ITEM_IDS),
            st.floats(3.3, 9.0),  # from an hour after the requests on, the same day included
            st.sampled_from(["train", "ranking", "validation", "test"]),
            st.sampled_from([1.0, 5.0]),
        ),
        max_size=12,
    )
)
def test_what_happens_later_changes_no_earlier_list(
    build_dataset: Callable[..., Dataset],
    stage_one: StageOne,
    dataset: Dataset,
    later: Sequence[tuple[str, str, float, str, float]],
) -> None:
    longer = build_dataset([*EVENTS, *later], item_ids=ITEM_IDS)
    before = lists_of(stage_one, dataset)
    asked = each_event(longer, "ranking")
    same = asked.take(
        np.flatnonzero(asked.requested_at_ms == dataset.events.at_ms[dataset.events.places(["ranking"])][0])
    )
    after = stage_one.lists(answered(stage_one, longer, same), days=longer.days(FOLD.splits), num_ranked=5)
    for field in fields(RankerLists):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name), err_msg=field.name)


def test_what_happened_before_does_change_it(
    build_dataset: Callable[..., Dataset], stage_one: StageOne, dataset: Dataset
) -> None:
    earlier = build_dataset([*EVENTS, ("new", "i7", 1.0, "train", 5.0)], item_ids=ITEM_IDS)
    assert not np.array_equal(lists_of(stage_one, earlier).dense, lists_of(stage_one, dataset).dense)


def test_a_cut_of_a_run_opens_and_answers(smoke_run: Path, smoke_dataset: Dataset) -> None:
    demo = smoke_run / "demo"
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    asked = each_event(smoke_dataset, "validation").take(slice(5))
    requests = stage_one.ask(smoke_dataset, asked, days=smoke_dataset.days(FOLD.splits), num_candidates=20)
    assert (requests.candidates.rows >= 2).all()
    assert np.isfinite(requests.candidates.scores).all()
