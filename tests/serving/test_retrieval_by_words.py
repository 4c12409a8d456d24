from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.transforms import QueryFeatures
from serving.retrieval import BM25, INDEX_FILE, RETRIEVERS, TOKENIZER_FILE, Stage1, score_names, write_index
from tests.serving.stage1_files import write_again
from towers.index.build import FlatBuilder
from towers.retrievers.bm25 import fit_bm25
from towers.retrievers.fusion import Fusion
from towers.retrievers.new_items import NewItems

NUM_ITEMS, D, TEXT_WIDTH = 300, 8, 5
BuildQueries = Callable[[list[list[str]]], QueryFeatures]


@pytest.fixture(scope="module")
def stage1(tiny_release: Path) -> Stage1:
    return Stage1.read(tiny_release)


@pytest.fixture(scope="module")
def asked_in_words(stage1: Stage1, tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage1:
    """The tiny release with queries that say something: written and read as a release is."""
    directory = tmp_path_factory.mktemp("asked_in_words")
    generator = np.random.default_rng(7)
    # Its tokenizer knows five words (padding is 0); items have up to six of them.
    tokens = generator.integers(0, 5, size=(NUM_ITEMS + 2, 6))
    tokens[:2] = 0
    write_again(
        stage1,
        directory,
        tokenizer_json=tiny_release / TOKENIZER_FILE,
        spec=replace(stage1.spec, text=replace(stage1.spec.text, query_tokens=3)),
        neighbours={**stage1.neighbours, BM25: fit_bm25(tokens, pad=0, num_tokens=5)},
        text_embeddings=generator.normal(size=(NUM_ITEMS + 2, TEXT_WIDTH)).astype(np.float32),
    )
    text = np.load(directory / "arrays" / "text_embeddings.npy")
    blend, rows = replace(stage1.blend, text=1.5), np.arange(2, NUM_ITEMS + 2)
    items = blend.item_embeddings(
        *(array[rows] for array in (stage1.item_embeddings, stage1.linear_embeddings, text)),
        stage1.statistics.values[-1, rows],
    )
    fusion = stage1.fusion
    write_index(
        directory / INDEX_FILE,
        index=FlatBuilder().build(items, rows),
        linear_embeddings=stage1.linear_embeddings,
        blend=blend,
        new_items=NewItems.none(),
        fusion=Fusion(weights={**fusion.weights, BM25: 2.0}, quotas={**fusion.quotas, BM25: 20}),
    )
    return Stage1.read(directory)


@given(texts=st.lists(st.sampled_from(["", "film", "film of", "[SEP] film film", "of"]), min_size=1, max_size=4))
def test_where_queries_say_something_their_words_are_looked_for_and_their_meaning_counts(
    asked_in_words: Stage1, build_queries: BuildQueries, texts: list[str]
) -> None:
    stage1, words = asked_in_words, asked_in_words.neighbours[BM25]
    inputs = stage1.query_inputs(replace(build_queries([["i3", "i9"]] * len(texts)), texts=texts))
    embedded = np.random.default_rng(1).normal(size=(len(texts), D + TEXT_WIDTH)).astype(np.float32)
    found = stage1.retrieve(inputs, stage1.blended(inputs, embedded), num_candidates=NUM_ITEMS)
    assert stage1.retrievers == (*RETRIEVERS, BM25)
    assert found.scores.shape[2] == found.ranks.shape[2] == len(score_names(query_text=True))
    for n, rows in enumerate(found.rows):
        rows = rows[rows > 0]
        # A word's weights stand in the row of its id + 2.
        expected = np.zeros(NUM_ITEMS + 2)
        for token in inputs.text_tokens[n][inputs.text_tokens[n] != 0]:
            own = slice(words.indptr[token + 2], words.indptr[token + 3])
            np.add.at(expected, words.indices[own], words.values[own])
        np.testing.assert_allclose(found.scores[n, : len(rows), -1], expected[rows], rtol=1e-5)
        brought = np.count_nonzero(found.ranks[n, :, -1])
        assert brought == min(
            20, np.count_nonzero(expected[[row for row in range(2, NUM_ITEMS + 2) if row not in (5, 11)]])
        )
        silent = replace(stage1, blend=replace(stage1.blend, text=0.0))
        without = silent.indexed(rows) @ silent.blended(inputs, embedded)[n]
        meaning = 1.5 * stage1.text_embeddings[rows] @ embedded[n, D:]
        np.testing.assert_allclose(found.scores[n, : len(rows), 1], without + meaning, rtol=1e-4, atol=1e-4)
        alone = inputs.take(slice(n, n + 1))
        one = stage1.retrieve(alone, stage1.blended(alone, embedded[n : n + 1]), num_candidates=NUM_ITEMS)
        np.testing.assert_array_equal(one.rows[0], found.rows[n])
        np.testing.assert_array_equal(one.scores[0], found.scores[n])


def test_a_release_whose_queries_say_something_needs_bm25s_weight(asked_in_words: Stage1, tmp_path: Path) -> None:
    # of a release from before there was BM25
    Fusion.unweighted(dict.fromkeys(RETRIEVERS, 9)).write(tmp_path / "fusion.json")
    with pytest.raises(ValueError, match=r"bm25; got weights of towers.*scripts/build_index\.py"):
        Fusion.read(tmp_path / "fusion.json", retrievers=asked_in_words.retrievers)
