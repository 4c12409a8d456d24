from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.model import Ranker
from ranking.packed import PackedEncoder, packed_scorer
from ranking.teacher import score_pairs

BuildRanker = Callable[..., Ranker]

NUM_DENSE, LENGTH, PAD = 5, 8, 0


def padded_rows(num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin with a token and have padding anywhere else, of all lengths."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 40, size=(num, LENGTH)).astype(np.int32)
    tokens[:, 1:][generator.random((num, LENGTH - 1)) < generator.random((num, 1))] = PAD
    return tokens, generator.normal(size=(num, NUM_DENSE)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 200), seed=st.integers(0, 1000), num_workers=st.integers(1, 3))
def test_packed_rows_score_as_padded_ones_and_in_their_order(
    build_ranker: BuildRanker, num: int, seed: int, num_workers: int
) -> None:
    model, (tokens, dense) = build_ranker(seed=seed % 3), padded_rows(num, seed=seed)
    scores = packed_scorer(model, num_workers=num_workers)(tokens, dense)
    np.testing.assert_allclose(scores, score_pairs(model, tokens, dense), atol=1e-4, rtol=0.0)


def test_embeddings_count_as_they_do_in_padded_rows(build_ranker: BuildRanker) -> None:
    model, (tokens, dense) = build_ranker(embeddings=True), padded_rows(20, seed=1)
    read = np.concatenate([dense, np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)], axis=1)
    scores = packed_scorer(model)(tokens, read)
    np.testing.assert_allclose(scores, score_pairs(model, tokens, read), atol=1e-4, rtol=0.0)


def test_the_place_of_a_token_counts_though_padding_is_dropped(build_ranker: BuildRanker) -> None:
    tokens = np.zeros((2, LENGTH), dtype=np.int32)
    tokens[:, 0], tokens[0, 1], tokens[1, 6] = 5, 7, 7  # the same tokens, in another position and segment
    scores = packed_scorer(build_ranker())(tokens, np.zeros((2, NUM_DENSE), dtype=np.float32))
    assert abs(scores[0] - scores[1]) > 1e-3


def test_each_row_may_have_segments_of_its_own(build_ranker: BuildRanker) -> None:
    model, (tokens, _) = build_ranker(), padded_rows(20, seed=3)
    assert model.encoder is not None
    segments = np.random.default_rng(0).integers(0, 2, size=tokens.shape)
    found = PackedEncoder(model.encoder).cls_states(tokens, segments)
    with torch.inference_mode():
        for row in range(20):
            expected = model.encoder(torch.from_numpy(tokens[[row]]).long(), torch.from_numpy(segments[row]))
            np.testing.assert_allclose(found[[row]], expected, atol=1e-4, rtol=0.0)


def test_no_rows_have_no_scores(build_ranker: BuildRanker) -> None:
    assert packed_scorer(build_ranker())(*padded_rows(0, seed=0)).shape == (0,)


def test_a_row_that_begins_with_padding_is_refused(build_ranker: BuildRanker) -> None:
    tokens, dense = padded_rows(3, seed=0)
    tokens[1, 0] = PAD
    with pytest.raises(ValueError, match=r"begins with \[CLS\]; row 1 begins with padding"):
        packed_scorer(build_ranker())(tokens, dense)


def test_no_workers_are_refused(build_ranker: BuildRanker) -> None:
    with pytest.raises(ValueError, match="num_workers: expected at least 1, or null for one a core; got 0"):
        packed_scorer(build_ranker(), num_workers=0)


def test_a_ranker_without_text_is_refused(build_ranker: BuildRanker) -> None:
    with pytest.raises(ValueError, match="without a text encoder"):
        packed_scorer(build_ranker(text=False))
