"""BM25: weights by hand, and what a query without known words gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.bm25 import fit_bm25, word_rows
from towers.retrievers.neighbours import NeighbourTable

PAD, NUM_TOKENS = 0, 9
TEXTS = st.lists(st.lists(st.integers(1, NUM_TOKENS - 1), max_size=7), min_size=1, max_size=8)


def tokens_of(texts: list[list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """[R, S] with the two rows that are no items."""
    tokens = np.full((len(texts) + 2, 7), PAD, dtype=np.int32)
    for row, text in enumerate(texts, start=2):
        tokens[row, : len(text)] = text
    return tokens


def scores_of(table: NeighbourTable, asked: list[int], num_rows: int) -> list[float]:
    words = word_rows(np.array(asked), pad=PAD)
    return table.score_history(words, np.ones(len(words), np.float32)).of(np.arange(num_rows)).tolist()


def test_a_word_weighs_what_hand_computation_gives():
    # Items 2, 3 and 4 have lengths 2, 4 and 3: their mean is 3. Word 5 is in items 2 and 3, word 6 in item 4 alone.
    table = fit_bm25(tokens_of([[5, 7], [5, 5, 7, 8], [6, 7, 8]]), pad=PAD, num_tokens=NUM_TOKENS)
    in_two, in_one = np.log(1 + 1.5 / 2.5), np.log(1 + 2.5 / 1.5)
    expected = [
        *(0.0, 0.0),
        in_two * 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / 3)),
        in_two * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / 3)),
        in_one * 1 / (1 + 0.9 * (0.6 + 0.4 * 3 / 3)),
    ]
    np.testing.assert_allclose(scores_of(table, [5, 6, PAD], 5), expected, rtol=1e-6)
    # asked twice, a word counts twice
    np.testing.assert_allclose(
        scores_of(table, [5, 6, 5], 5), expected + np.array([0, 0, *expected[2:4], 0]), rtol=1e-6
    )


@given(texts=TEXTS, asked=st.lists(st.integers(0, NUM_TOKENS - 1), max_size=6))
def test_scores_are_the_formula_summed_over_the_query(texts: list[list[int]], asked: list[int]) -> None:
    table = fit_bm25(tokens_of(texts), pad=PAD, num_tokens=NUM_TOKENS, saturation=1.2, length_share=0.75)
    mean = max(sum(map(len, texts)) / len(texts), 1.0)
    expected = []
    for text in texts:
        score = 0.0
        for word in asked:
            having = sum(word in other for other in texts)
            count = text.count(word)
            if word != PAD and count:
                rarity = np.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
                score += rarity * count / (count + 1.2 * (0.25 + 0.75 * len(text) / mean))
        expected.append(score)
    np.testing.assert_allclose(scores_of(table, asked, len(texts) + 2), [0.0, 0.0, *expected], rtol=1e-5)


def test_items_without_a_word_and_queries_without_one_find_nothing():
    table = fit_bm25(tokens_of([[], []]), pad=PAD, num_tokens=NUM_TOKENS)
    assert scores_of(table, [5, 6], 4) == [0.0] * 4
    table = fit_bm25(tokens_of([[5], [6]]), pad=PAD, num_tokens=NUM_TOKENS)
    assert scores_of(table, [PAD, PAD], 4) == [0.0] * 4
    assert scores_of(table, [7], 4) == [0.0] * 4


def test_texts_of_another_tokenizer_or_table_are_refused():
    with pytest.raises(ValueError, match="token ids below 6 and no text in the first 2 rows; got ids up to 8"):
        fit_bm25(tokens_of([[8]]), pad=PAD, num_tokens=6)
    with pytest.raises(ValueError, match="no text in the first 2 rows"):
        fit_bm25(tokens_of([[5]])[2:], pad=PAD, num_tokens=NUM_TOKENS)
