from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.tower_inputs import QueryTowerInputs
from features.transforms import QueryFeatures, QueryInputs
from serving.models import OnnxModels
from serving.retrieval import (
    ITEM_ARRAYS,
    NEIGHBOUR_WEIGHTS,
    QUERY_TOWER_FILE,
    RETRIEVERS,
    TOKENIZER_FILE,
    Stage1,
    write_tables,
)
from towers.index.build import FlatBuilder

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


def best_unseen(stage1: Stage1, embedding: NDArray[np.float32], seen: set[str]) -> list[int]:
    """All rows that may be recommended, by falling inner product."""
    scores = stage1.item_embeddings @ embedding
    rows = [row for row in range(2, len(scores)) if stage1.catalogue.item_id(row) not in seen]
    return sorted(rows, key=lambda row: -scores[row])


@given(histories=HISTORIES, num_candidates=st.integers(1, 320), seed=st.integers(0, 999))
def test_candidates_are_the_best_items_that_were_never_seen(
    stage1: Stage1, encode: Encode, histories: list[list[int]], num_candidates: int, seed: int
) -> None:
    inputs, embeddings = encode(names(histories)), some_embeddings(len(histories), seed=seed)
    found = stage1.retrieve(inputs, embeddings, num_candidates=num_candidates)
    assert found.rows.shape == (len(histories), num_candidates)
    assert found.scores.shape == (len(histories), num_candidates, len(RETRIEVERS))
    for n, history in enumerate(histories):
        seen = {f"i{number}" for number in history}
        expected = best_unseen(stage1, embeddings[n], seen)[:num_candidates]
        rows = found.rows[n, : len(expected)]
        assert not seen & {stage1.catalogue.item_id(int(row)) for row in rows}
        assert len(set(rows.tolist())) == len(expected)
        own_scores = stage1.item_embeddings[rows] @ embeddings[n]
        np.testing.assert_allclose(found.scores[n, : len(expected), 0], own_scores, atol=1e-5)
        # equal up to rounding, so that two items of nearly one score may change places
        np.testing.assert_allclose(own_scores, stage1.item_embeddings[expected] @ embeddings[n], atol=1e-5)
        assert not found.rows[n, len(expected) :].any()
        assert not found.scores[n, len(expected) :].any()


@given(histories=HISTORIES, seed=st.integers(0, 999))
def test_every_other_retriever_scores_by_its_dense_product(
    stage1: Stage1, encode: Encode, histories: list[list[int]], seed: int
) -> None:
    inputs = encode(names(histories))
    found = stage1.retrieve(inputs, some_embeddings(len(histories), seed=seed), num_candidates=40)
    for place, name in enumerate(("transitions", "ease"), start=1):
        table = stage1.neighbours[name]
        dense = np.zeros((table.num_rows, table.num_rows))
        for source in range(table.num_rows):
            own = slice(table.indptr[source], table.indptr[source + 1])
            dense[source, table.indices[own]] = table.values[own]
        weights = NEIGHBOUR_WEIGHTS[name](inputs.history_rows)
        for n, rows in enumerate(found.rows):
            expected = weights[n] @ dense[inputs.history_rows[n]][:, rows]
            np.testing.assert_allclose(found.scores[n, :, place], expected, atol=1e-4)


def test_the_last_item_counts_fully_and_the_one_before_by_its_age(stage1: Stage1, encode: Encode) -> None:
    # after i7 (newest) and i4 a candidate scores its transition from i7, plus that from i4 / sqrt(2)
    table = stage1.neighbours["transitions"]
    found = stage1.retrieve(encode([["i4", "i7"]]), some_embeddings(1), num_candidates=298)

    def score_after(item: str, row: int) -> float:
        source = stage1.catalogue.row(item)
        own = slice(table.indptr[source], table.indptr[source + 1])
        return float(table.values[own][table.indices[own] == row].sum())

    for row, score in zip(found.rows[0].tolist(), found.scores[0, :, 1].tolist(), strict=True):
        assert score == pytest.approx(score_after("i7", row) + score_after("i4", row) / 2**0.5, abs=1e-5)
    assert np.count_nonzero(found.scores[0, :, 1]) > 0


def test_an_old_item_is_not_shown_again_though_the_tower_no_longer_sees_it(stage1: Stage1, encode: Encode) -> None:
    embedding = some_embeddings(1)
    best = best_unseen(stage1, embedding[0], set())
    history = [stage1.catalogue.item_id(row) for row in best[:1] + best[-20:]]  # the best item is the oldest

    inputs = encode([history])
    found = stage1.retrieve(inputs, embedding, num_candidates=3)

    assert best[0] not in inputs.history_rows
    assert inputs.history_rows.shape == (1, HISTORY_LENGTH)
    assert found.rows.tolist() == [best[1:4]]


def test_a_query_without_a_history_gets_the_best_of_all(stage1: Stage1, encode: Encode) -> None:
    embedding = some_embeddings(1)
    found = stage1.retrieve(encode([[]]), embedding, num_candidates=5)
    assert found.rows.tolist() == [best_unseen(stage1, embedding[0], set())[:5]]
    assert found.scores[:, :, 0].all()
    assert not found.scores[:, :, 1:].any()  # the others know nothing without a history


def test_unknown_items_of_a_history_change_no_candidate(stage1: Stage1, encode: Encode) -> None:
    embeddings = some_embeddings(1).repeat(2, axis=0)
    found = stage1.retrieve(encode([["i3", "i9"], ["nobody", "i3", "never", "i9"]]), embeddings, num_candidates=20)
    np.testing.assert_array_equal(found.rows[0], found.rows[1])
    np.testing.assert_array_equal(found.scores[0], found.scores[1])


def test_an_index_of_few_items_leaves_padding(stage1: Stage1, encode: Encode) -> None:
    rows = np.arange(2, 7)  # i0 to i4
    small = replace(stage1, index=FlatBuilder().build(stage1.item_embeddings[rows], rows))
    found = small.retrieve(
        encode([["i0", "i3"], [], ["i0", "i1", "i2", "i3", "i4"]]), some_embeddings(3), num_candidates=4
    )
    assert (found.rows > 0).sum(axis=1).tolist() == [3, 4, 0]
    assert not found.scores[found.rows == 0].any()


@given(histories=HISTORIES, seed=st.integers(0, 999))
def test_a_batch_retrieves_what_its_queries_do_one_at_a_time(
    stage1: Stage1, encode: Encode, histories: list[list[int]], seed: int
) -> None:
    inputs, embeddings = encode(names(histories)), some_embeddings(len(histories), seed=seed)
    batch = stage1.retrieve(inputs, embeddings, num_candidates=30)
    for n in range(len(histories)):
        own = slice(n, n + 1)
        one = stage1.retrieve(inputs.take(own), embeddings[own], num_candidates=30)
        np.testing.assert_array_equal(one.rows, batch.rows[own])
        np.testing.assert_allclose(one.scores, batch.scores[own], atol=1e-5)


@pytest.mark.parametrize("repeats", [False, True])
def test_what_was_had_is_left_out_unless_the_spec_or_the_caller_says_otherwise(
    stage1: Stage1, encode: Encode, repeats: bool
) -> None:
    stage1 = replace(stage1, spec=replace(stage1.spec, repeats=repeats))
    embedding = some_embeddings(1)
    best = [stage1.catalogue.item_id(row) for row in best_unseen(stage1, embedding[0], set())]
    inputs = encode([[best[0], best[2], "nobody"]])

    def recommended(exclude_seen: bool | None) -> list[str]:
        found = stage1.retrieve(inputs, embedding, num_candidates=4, exclude_seen=exclude_seen)
        return [stage1.catalogue.item_id(row) for row in found.rows[0].tolist()]

    new = [best[1], *best[3:6]]
    assert recommended(exclude_seen=True) == new
    assert recommended(exclude_seen=False) == best[:4]
    assert recommended(exclude_seen=None) == (best[:4] if repeats else new)


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
    np.testing.assert_array_equal(stage1.embed(inputs, models=models), expected)


def test_large_arrays_are_mapped_and_not_copied(stage1: Stage1) -> None:
    arrays = [stage1.item_embeddings, stage1.statistics.values, stage1.items.text_tokens, stage1.items.categories]
    assert all(isinstance(array.base, np.memmap) for array in arrays)


def test_tables_that_were_written_are_read_back(stage1: Stage1, tiny_release: Path, tmp_path: Path) -> None:
    write_tables(
        tmp_path,
        spec=stage1.spec,
        vocabularies=stage1.vocabularies,
        catalogue=stage1.catalogue,
        items=stage1.items,
        item_embeddings=stage1.item_embeddings,
        statistics=stage1.statistics,
        neighbours=stage1.neighbours,
        tokenizer_json=tiny_release / TOKENIZER_FILE,
    )
    stage1.index.write(tmp_path / "elsewhere.faiss")

    read = Stage1.read(tmp_path, index_path=tmp_path / "elsewhere.faiss")

    assert read.spec == stage1.spec
    assert read.spec.hash == stage1.spec.hash
    assert (read.vocabularies, read.catalogue) == (stage1.vocabularies, stage1.catalogue)
    assert read.special_tokens == stage1.special_tokens == (1, 2)
    assert len(read.index) == NUM_ITEMS
    for name in ITEM_ARRAYS:
        np.testing.assert_array_equal(getattr(read.items, name), getattr(stage1.items, name))
    np.testing.assert_array_equal(read.item_embeddings, stage1.item_embeddings)
    np.testing.assert_array_equal(read.statistics.values, stage1.statistics.values)
    np.testing.assert_array_equal(read.neighbours["ease"].values, stage1.neighbours["ease"].values)
