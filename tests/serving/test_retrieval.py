from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.statistics import STATISTICS
from features.tower_inputs import QueryTowerInputs
from features.transforms import QueryFeatures, QueryInputs
from serving.candidates import Candidates
from serving.models import OnnxModels
from serving.retrieval import (
    NEIGHBOUR_WEIGHTS,
    QUERY_TOWER_FILE,
    RETRIEVERS,
    SCORES,
    Stage1,
)
from towers.index.build import FlatBuilder
from towers.index.snapshot import Snapshot
from towers.retrievers.bags import history_bags
from towers.retrievers.blend import POPULARITY
from towers.retrievers.new_items import NewItems

NUM_ITEMS, HISTORY_LENGTH, D = 300, 10, 8
BuildQueries = Callable[[list[list[str]]], QueryFeatures]


@pytest.fixture(scope="module")
def stage1(tiny_release: Path) -> Stage1:
    return Stage1.read(tiny_release)


@pytest.fixture(scope="module")
def encode(stage1: Stage1, build_queries: BuildQueries) -> Callable[[list[list[str]]], QueryInputs]:
    """Inputs of queries with these histories."""

    def inputs(histories: list[list[str]]) -> QueryInputs:
        return stage1.query_inputs(build_queries(histories))

    return inputs


Encode = Callable[[list[list[str]]], QueryInputs]
# Item numbers; those from 300 on are not in the catalogue. Often longer than the tower's 10, sometimes with repeats.
HISTORIES = st.lists(st.lists(st.integers(0, NUM_ITEMS + 5), max_size=30), min_size=1, max_size=4)


def names(histories: list[list[int]]) -> list[list[str]]:
    return [[f"i{number}" for number in history] for history in histories]


def some_embeddings(num: int, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num, D)).astype(np.float32)


def bags_of(stage1: Stage1, inputs: QueryInputs) -> NDArray[np.float32]:
    """[B, L] of the one query of `inputs`."""
    linear = stage1.linear_embeddings
    return history_bags(linear, seen_rows=inputs.seen_rows, seen_age_days=inputs.seen_age_days)[0]


def retrieve(
    stage1: Stage1, inputs: QueryInputs, learned: NDArray[np.float32], *, num_candidates: int, **excluding: Any
) -> Candidates:
    """For queries that the tower has embedded."""
    return stage1.retrieve(inputs, stage1.blended(inputs, learned), num_candidates=num_candidates, **excluding)


def fused(stage1: Stage1, inputs: QueryInputs, embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    """[R, 1 + K] scores of every item for the one query of `inputs`, by dense arithmetic."""
    history, num_rows = inputs.history_rows[0], len(stage1.catalogue)
    counts = {name: stage1.statistics.values[-1, :, place].astype(np.float64) for place, name in enumerate(STATISTICS)}
    blend, bags = stage1.blend, bags_of(stage1, inputs)
    parts = [
        blend.learned * stage1.item_embeddings.astype(np.float64) @ embedding,
        *(weight * stage1.linear_embeddings @ bag for weight, bag in zip(blend.bags, bags, strict=True)),
        *(weight * np.log1p(counts[name]) for weight, name in zip(blend.popularity, POPULARITY, strict=True)),
    ]
    columns = [np.sum(parts, axis=0)]
    for name, weigh in NEIGHBOUR_WEIGHTS.items():
        table = stage1.neighbours[name]
        dense = np.zeros((num_rows, num_rows))
        for source in range(num_rows):
            own = slice(table.indptr[source], table.indptr[source + 1])
            dense[source, table.indices[own]] = table.values[own]
        columns.append(weigh(inputs.history_rows)[0] @ dense[history])
    columns.append(np.log1p(counts["count_7d"] + counts["count_30d"] / 30))
    for half_life_days in (np.inf, 30.0):
        times = np.zeros(num_rows)
        np.add.at(times, inputs.seen_rows[0], 0.5 ** (inputs.seen_age_days[0] / half_life_days))
        columns.append(np.log1p(times))
    own = np.stack(columns, axis=1)
    return np.column_stack([own @ list(stage1.fusion.weights.values()), own])


def best_unseen(
    stage1: Stage1, inputs: QueryInputs, embedding: NDArray[np.float32], seen: set[str]
) -> tuple[list[int], NDArray[np.float64]]:
    """All rows that may be recommended, by falling fused score, and all scores of every item."""
    scores = fused(stage1, inputs, embedding)
    rows = [row for row in range(2, len(scores)) if stage1.catalogue.item_id(row) not in seen]
    return sorted(rows, key=lambda row: -scores[row, 0]), scores


@given(histories=HISTORIES, num_candidates=st.integers(1, 320), seed=st.integers(0, 999))
def test_candidates_are_the_best_items_that_were_never_seen_with_every_score(
    stage1: Stage1, encode: Encode, histories: list[list[int]], num_candidates: int, seed: int
) -> None:
    inputs, embeddings = encode(names(histories)), some_embeddings(len(histories), seed=seed)
    found = retrieve(stage1, inputs, embeddings, num_candidates=num_candidates)
    assert found.rows.shape == (len(histories), num_candidates)
    assert found.scores.shape == found.ranks.shape == (len(histories), num_candidates, len(SCORES))
    for n, history in enumerate(histories):
        seen = {f"i{number}" for number in history}
        expected, scores = best_unseen(stage1, inputs.take(slice(n, n + 1)), embeddings[n], seen)
        expected = expected[:num_candidates]
        rows = found.rows[n, : len(expected)]
        assert not seen & {stage1.catalogue.item_id(int(row)) for row in rows}
        assert len(set(rows.tolist())) == len(expected)
        np.testing.assert_allclose(found.scores[n, : len(expected)], scores[rows], atol=1e-4)
        # equal up to rounding, so that two items of nearly one score may change places
        np.testing.assert_allclose(scores[rows, 0], scores[expected, 0], atol=1e-4)
        assert (np.diff(found.scores[n, : len(expected), 0]) <= 0).all()
        for array in (found.rows, found.scores, found.ranks):
            assert not array[n, len(expected) :].any()


@given(histories=HISTORIES, seed=st.integers(0, 999), repeats=st.booleans())
def test_a_rank_is_the_place_by_the_retrievers_own_score_among_what_it_brought(
    stage1: Stage1, encode: Encode, histories: list[list[int]], seed: int, repeats: bool
) -> None:
    stage1 = replace(stage1, spec=replace(stage1.spec, repeats=repeats))
    inputs, embeddings = encode(names(histories)), some_embeddings(len(histories), seed=seed)
    found = retrieve(stage1, inputs, embeddings, num_candidates=NUM_ITEMS)
    for n in range(len(histories)):
        num = np.count_nonzero(found.rows[n])
        assert found.ranks[n, :num, 0].tolist() == list(range(1, num + 1))
        for column, name in enumerate(RETRIEVERS, start=1):
            ranks, scores = found.ranks[n, :num, column], found.scores[n, :num, column]
            brought = np.flatnonzero(ranks)[np.argsort(ranks[ranks > 0])]
            assert ranks[brought].tolist() == list(range(1, len(brought) + 1))
            assert len(brought) <= stage1.fusion.quotas[name]
            assert (np.diff(scores[brought]) <= 1e-5).all()
            if name != "towers":  # what says nothing of an item does not bring it
                assert (scores[brought] > 0).all()
                full = len(brought) == stage1.fusion.quotas[name]
                assert full or len(brought) == np.count_nonzero(scores > 0)
        if not repeats:
            assert not found.ranks[n, :, -2:].any()


def test_the_last_item_counts_fully_and_the_one_before_by_its_age(stage1: Stage1, encode: Encode) -> None:
    # after i7 (newest) and i4 a candidate scores its transition from i7, plus that from i4 / sqrt(2)
    table, place = stage1.neighbours["transitions"], SCORES.index("transitions")
    found = retrieve(stage1, encode([["i4", "i7"]]), some_embeddings(1), num_candidates=298)

    def score_after(item: str, row: int) -> float:
        source = stage1.catalogue.row(item)
        own = slice(table.indptr[source], table.indptr[source + 1])
        return float(table.values[own][table.indices[own] == row].sum())

    for row, score in zip(found.rows[0].tolist(), found.scores[0, :, place].tolist(), strict=True):
        assert score == pytest.approx(score_after("i7", row) + score_after("i4", row) / 2**0.5, abs=1e-5)
    assert np.count_nonzero(found.scores[0, :, place]) > 0


def test_popularity_is_that_of_the_tick_that_it_is_asked_as_of(stage1: Stage1, encode: Encode) -> None:
    popular = replace(stage1, fusion=stage1.fusion.alone("popularity", quota=20))
    inputs, embedding = encode([["i3"]]), some_embeddings(1)
    for tick in (0, 1):
        counts = stage1.statistics.values[tick]
        week, month = (counts[:, STATISTICS.index(name)] for name in ("count_7d", "count_30d"))
        expected = [
            int(row) for row in np.argsort(-(week + month / 30)) if row >= 2 and row != stage1.catalogue.row("i3")
        ]
        found = retrieve(popular.as_of(stage1.statistics.at(tick)), inputs, embedding, num_candidates=20)
        assert found.rows.tolist() == [expected[:20]]


def test_an_old_item_is_not_shown_again_though_the_tower_no_longer_sees_it(stage1: Stage1, encode: Encode) -> None:
    embedding = some_embeddings(1)
    towers = replace(stage1, fusion=stage1.fusion.alone("towers", quota=NUM_ITEMS))
    best, _ = best_unseen(towers, encode([[]]), embedding[0], set())
    history = [stage1.catalogue.item_id(row) for row in best[:1] + best[-20:]]  # the best item is the oldest

    inputs = encode([history])
    found = retrieve(towers, inputs, embedding, num_candidates=3)

    assert best[0] not in inputs.history_rows
    assert inputs.history_rows.shape == (1, HISTORY_LENGTH)
    expected, scores = best_unseen(towers, inputs, embedding[0], set(history))
    assert scores[best[0], 0] > scores[expected[2], 0]  # it would have been shown
    assert found.rows.tolist() == [expected[:3]]


def test_a_query_without_a_history_gets_the_best_of_all(stage1: Stage1, encode: Encode) -> None:
    embedding = some_embeddings(1)
    inputs = encode([[]])
    found = retrieve(stage1, inputs, embedding, num_candidates=5)
    assert found.rows.tolist() == [best_unseen(stage1, inputs, embedding[0], set())[0][:5]]
    knows = {name: bool(found.scores[:, :, column].any()) for column, name in enumerate(SCORES)}
    # the others know nothing without a history
    assert [name for name, any_score in knows.items() if any_score] == ["fused", "towers", "popularity"]


def test_unknown_items_of_a_history_change_no_candidate(stage1: Stage1, encode: Encode) -> None:
    embeddings = some_embeddings(1).repeat(2, axis=0)
    found = retrieve(stage1, encode([["i3", "i9"], ["nobody", "i3", "never", "i9"]]), embeddings, num_candidates=20)
    np.testing.assert_array_equal(found.rows[0], found.rows[1])
    np.testing.assert_allclose(found.scores[0], found.scores[1], rtol=1e-5)  # events beside unknown ones are older


def test_few_items_that_can_be_recommended_leave_padding(stage1: Stage1, encode: Encode) -> None:
    rows = np.arange(2, 7)  # i0 to i4
    small = replace(
        stage1,
        snapshot=Snapshot(FlatBuilder().build(stage1.indexed(rows), rows)),
        recommendable=np.isin(np.arange(NUM_ITEMS + 2), rows),
    )
    found = retrieve(
        small, encode([["i0", "i3"], [], ["i0", "i1", "i2", "i3", "i4"]]), some_embeddings(3), num_candidates=4
    )
    assert (found.rows > 0).sum(axis=1).tolist() == [3, 4, 0]
    assert not found.scores[found.rows == 0].any()


@given(histories=HISTORIES, seed=st.integers(0, 999))
def test_a_batch_retrieves_what_its_queries_do_one_at_a_time(
    stage1: Stage1, encode: Encode, histories: list[list[int]], seed: int
) -> None:
    inputs, embeddings = encode(names(histories)), some_embeddings(len(histories), seed=seed)
    batch = retrieve(stage1, inputs, embeddings, num_candidates=30)
    for n in range(len(histories)):
        own = slice(n, n + 1)
        one = retrieve(stage1, inputs.take(own), embeddings[own], num_candidates=30)
        np.testing.assert_array_equal(one.rows, batch.rows[own])
        np.testing.assert_allclose(one.scores, batch.scores[own], atol=1e-5)


@pytest.mark.parametrize("repeats", [False, True])
def test_what_was_had_is_left_out_unless_the_spec_or_the_caller_says_otherwise(
    stage1: Stage1, encode: Encode, repeats: bool
) -> None:
    stage1 = replace(stage1, spec=replace(stage1.spec, repeats=repeats))
    embedding = some_embeddings(1)
    inputs = encode([["i5", "i200", "nobody"]])
    order, _ = best_unseen(stage1, inputs, embedding[0], set())
    best = [stage1.catalogue.item_id(row) for row in order]
    new = [item_id for item_id in best if item_id not in ("i5", "i200")]

    def recommended(excluded: NDArray[np.int64] | None) -> list[str]:
        found = retrieve(stage1, inputs, embedding, num_candidates=NUM_ITEMS, excluded=excluded)
        return [stage1.catalogue.item_id(row) for row in found.rows[0].tolist() if row]

    assert recommended(inputs.seen_rows) == new
    assert recommended(np.zeros((1, 0), dtype=np.int64)) == best
    assert recommended(None) == (best if repeats else new)


def test_what_was_had_often_and_lately_is_brought_first_where_it_may_be_recommended(
    stage1: Stage1, encode: Encode
) -> None:
    stage1 = replace(stage1, spec=replace(stage1.spec, repeats=True), fusion=stage1.fusion.alone("repeats", quota=3))
    found = retrieve(stage1, encode([["i1", "i2", "i2", "i3", "i3", "i3"]]), some_embeddings(1), num_candidates=5)
    # rows begin at 2; each of n times scores ln(1 + n)
    assert found.rows.tolist() == [[5, 4, 3, 0, 0]]
    np.testing.assert_allclose(found.scores[0, :3, 0], np.log([4, 3, 2]), rtol=1e-6)


def test_what_a_query_says_reaches_the_tower_as_tokens(stage1: Stage1, build_queries: BuildQueries) -> None:
    asking = replace(stage1, spec=replace(stage1.spec, text=replace(stage1.spec.text, query_tokens=3)))
    queries = replace(build_queries([["i1"], []]), texts=["film of film", ""])
    # the tiny release's words: film is 4, what it does not know 3, padding 0
    assert asking.query_inputs(queries).text_tokens.tolist() == [[4, 3, 4], [0, 0, 0]]
    assert stage1.query_inputs(queries).text_tokens.shape == (2, 0)


def test_a_history_enters_the_tower_by_its_items_embeddings(stage1: Stage1, encode: Encode, tiny_release: Path) -> None:
    inputs = encode([["i3", "nobody", "i9"], []])
    models = OnnxModels(query_tower=tiny_release / QUERY_TOWER_FILE, ranker=None)
    history = np.zeros((2, HISTORY_LENGTH, D), dtype=np.float32)
    history[:, :] = stage1.item_embeddings[0]
    # rows: i3 is 5, an unknown item 1, i9 is 11; the newest is last
    history[0, -3:] = stage1.item_embeddings[[5, 1, 11]]
    expected = models.query_tower(
        QueryTowerInputs(
            history_embeddings=history,
            history_mask=np.array([[False] * 7 + [True] * 3, [False] * 10]),
            history_events=inputs.history_events,
            history_values=inputs.history_values,
            history_gap_days=inputs.history_gap_days,
            query_categories=inputs.categories,
            query_numbers=inputs.numbers,
            query_text=np.zeros((2, 0), dtype=np.int64),
        )
    )
    np.testing.assert_array_equal(stage1.embed_alone(inputs, models=models), expected)
    np.testing.assert_array_equal(stage1.embed(inputs, models=models), stage1.blended(inputs, expected))


def test_the_index_and_every_score_of_the_towers_are_as_of_the_same_tick(stage1: Stage1, encode: Encode) -> None:
    towers = replace(stage1, fusion=stage1.fusion.alone("towers", quota=NUM_ITEMS))
    inputs, embedding = encode([["i5"]]), some_embeddings(1)
    for tick in (0, 1):
        as_of = towers.as_of(stage1.statistics.at(tick))
        query = as_of.blended(inputs, embedding)
        rows = np.arange(2, NUM_ITEMS + 2)
        expected = as_of.indexed(rows) @ query[0]
        found = as_of.index.search(query, k=NUM_ITEMS)
        np.testing.assert_allclose(found.scores[0], np.sort(expected)[::-1], rtol=1e-4, atol=1e-5)
        scored = retrieve(as_of, inputs, embedding, num_candidates=20)
        np.testing.assert_allclose(scored.scores[0, :, 0], expected[scored.rows[0] - 2], rtol=1e-4, atol=1e-5)


def test_new_items_keep_their_bias_and_their_own_embedding_at_every_tick(stage1: Stage1, encode: Encode) -> None:
    new = NewItems(rows=np.array([4, 9]), learned=some_embeddings(2, seed=1), bias=3.0)
    rows = np.arange(2, NUM_ITEMS + 2)
    replaced = replace(stage1, new_items=new, fusion=stage1.fusion.alone("towers", quota=NUM_ITEMS))
    replaced = replace(replaced, snapshot=Snapshot(FlatBuilder().build(replaced.indexed(rows), rows)))
    inputs, embedding = encode([["i5"]]), some_embeddings(1)
    for tick in (0, 1):
        as_of, plain = (own.as_of(stage1.statistics.at(tick)) for own in (replaced, stage1))
        query = as_of.blended(inputs, embedding)[0].astype(np.float64)
        expected = plain.indexed(rows) @ query
        learned = stage1.blend.learned * embedding[0].astype(np.float64)
        for row, own in zip(new.rows, new.learned, strict=True):
            expected[row - 2] += (own - stage1.item_embeddings[row]) @ learned + 3.0
        found = retrieve(as_of, inputs, embedding, num_candidates=NUM_ITEMS, excluded=np.zeros((1, 0), np.int64))
        assert set(found.rows[0].tolist()) == set(rows.tolist())
        np.testing.assert_allclose(found.scores[0, :, 0], expected[found.rows[0] - 2], rtol=1e-4, atol=1e-4)


def test_fused_scores_are_those_of_candidates_also_of_what_nobody_brought(stage1: Stage1, encode: Encode) -> None:
    inputs, learned, rows = encode([["i5", "i9"], []]), some_embeddings(2), np.arange(2, NUM_ITEMS + 2)
    found = stage1.fused_scores(inputs, stage1.blended(inputs, learned), rows)
    for n in range(2):
        expected = fused(stage1, inputs.take(slice(n, n + 1)), learned[n])[rows, 0]
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-4)


def test_what_a_query_had_before_is_fused_by_weights_of_its_own(stage1: Stage1, encode: Encode) -> None:
    fusion = replace(stage1.fusion, again={name: 0.0 for name in RETRIEVERS}, again_bonus=50.0)
    again = replace(stage1, fusion=fusion)
    inputs, learned = encode([["i5", "i9"]]), some_embeddings(1)
    nothing = np.zeros((1, 0), dtype=np.int64)
    found = retrieve(again, inputs, learned, num_candidates=40, excluded=nothing)
    had = np.isin(found.rows[0], inputs.seen_rows[0])
    assert set(found.rows[0][had].tolist()) == {7, 11}  # rows of i5 and i9
    np.testing.assert_array_equal(found.scores[0, had, 0], 50.0)
    before = retrieve(stage1, inputs, learned, num_candidates=NUM_ITEMS, excluded=nothing)
    scores = dict(zip(before.rows[0].tolist(), before.scores[0, :, 0].tolist(), strict=True))
    assert found.scores[0, ~had, 0].tolist() == [scores[row] for row in found.rows[0][~had].tolist()]
    rows = np.array([7, 12])
    np.testing.assert_allclose(
        again.fused_scores(inputs, again.blended(inputs, learned), rows)[0],
        [50.0, stage1.fused_scores(inputs, stage1.blended(inputs, learned), rows)[0, 1]],
    )
