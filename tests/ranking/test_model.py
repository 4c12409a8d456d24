from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import BertModel

from ranking.model import ClsEncoder, EncoderSizes, Ranker, bert_sizes, segments_of

LENGTH, NUM_DENSE, PAD, VOCABULARY = 8, 5, 0, 40
SEGMENTS = torch.from_numpy(segments_of(length=LENGTH, history_tokens=3))

BuildRanker = Callable[..., Ranker]


def some_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Token ids with [PAD] at about a third of all places but the first, inside as well as at the end."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, VOCABULARY, size=(*shape, LENGTH))
    tokens[generator.random(tokens.shape) < 0.3] = PAD
    tokens[..., 0] = 1
    return torch.from_numpy(tokens)


def some_dense(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, NUM_DENSE)).astype(np.float32))


def encoder_of(bert: BertModel, *, num_layers: int | None = None) -> ClsEncoder:
    encoder = ClsEncoder(sizes=bert_sizes(bert.config, num_layers=num_layers), pad_token=PAD, dropout=0.0)
    encoder.load_bert(bert.state_dict())
    return encoder.eval()


@torch.inference_mode()
def states_of(bert: BertModel, tokens: Tensor) -> tuple[Tensor, ...]:
    """CLS state [P, H] after the embeddings and after each layer."""
    segments = SEGMENTS.expand_as(tokens)
    found = bert(tokens, token_type_ids=segments, attention_mask=(tokens != PAD).long(), output_hidden_states=True)
    return tuple(states[:, 0] for states in found.hidden_states)


@torch.inference_mode()
def test_a_loaded_bert_gives_its_own_cls_state(bert: BertModel) -> None:
    tokens = some_tokens(16)
    assert (tokens[:, 1:-1] == PAD).any()
    assert_close(encoder_of(bert)(tokens, SEGMENTS), states_of(bert, tokens)[-1], rtol=0.0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_bert_cut_short_gives_the_state_after_its_first_layers(bert: BertModel, num_layers: int) -> None:
    tokens = some_tokens(16)
    encoder = encoder_of(bert, num_layers=num_layers)
    assert len(encoder.layers) == num_layers
    assert_close(encoder(tokens, SEGMENTS), states_of(bert, tokens)[num_layers], rtol=0.0, atol=1e-5)


def test_a_bert_with_fewer_layers_than_asked_for_is_refused(bert: BertModel) -> None:
    with pytest.raises(KeyError, match=r"encoder\.layer\.3"):
        encoder_of(bert, num_layers=4)


@torch.inference_mode()
def test_what_stands_at_padding_changes_nothing(bert: BertModel) -> None:
    tokens = some_tokens(16)
    encoder = encoder_of(bert)
    expected = encoder(tokens, SEGMENTS)
    encoder.words.weight[PAD] = 100.0
    assert_close(encoder(tokens, SEGMENTS), expected, rtol=0.0, atol=0.0)


@torch.inference_mode()
def test_padding_behind_the_text_changes_nothing(bert: BertModel) -> None:
    encoder, tokens = encoder_of(bert), some_tokens(16)
    longer = torch.cat([tokens, torch.full((16, 4), PAD)], dim=1)
    segments = torch.cat([SEGMENTS, torch.ones(4, dtype=torch.int64)])
    assert_close(encoder(longer, segments), encoder(tokens, SEGMENTS), rtol=0.0, atol=1e-6)


@torch.inference_mode()
def test_a_segment_counts_as_much_as_in_bert(bert: BertModel) -> None:
    encoder, tokens = encoder_of(bert), some_tokens(16)
    assert (encoder(tokens, SEGMENTS) - encoder(tokens, torch.zeros_like(SEGMENTS))).abs().max() > 0.01


def test_a_width_that_its_heads_do_not_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of its heads; got 10 and 4"):
        EncoderSizes(vocabulary=9, num_layers=1, width=10, num_heads=4, feed_forward_width=8, max_tokens=8)


def test_a_token_row_longer_than_its_encoder_reads_is_refused() -> None:
    sizes = EncoderSizes(vocabulary=9, num_layers=1, width=8, num_heads=2, feed_forward_width=8, max_tokens=6)
    encoder = ClsEncoder(sizes=sizes, pad_token=PAD, dropout=0.0)
    with pytest.raises(ValueError, match=r"has 7 tokens but its encoder reads 6; shorten features\.text"):
        Ranker(encoder=encoder, num_dense=2, segments=segments_of(length=7, history_tokens=2), hidden=4, dropout=0.0)


def test_segments_split_behind_the_first_separator() -> None:
    # [CLS] h h h [SEP] c c [SEP]
    assert segments_of(length=8, history_tokens=3).tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(3))
def test_a_text_ranker_begins_with_the_scores_of_the_dense_one(build_ranker: BuildRanker, seed: int) -> None:
    dense_only, with_text = build_ranker(seed=seed, text=False), build_ranker(seed=seed + 1, trained=False)
    dense_only.fit_scale(some_dense(50).numpy() * 3 + 1)
    with_text.load_state_dict(dense_only.state_dict(), strict=False)
    tokens, dense = some_tokens(3, 4), some_dense(3, 4)
    assert_close(with_text(tokens, dense), dense_only(tokens, dense), rtol=0.0, atol=0.0)


@torch.inference_mode()
def test_text_changes_the_score_once_trained(build_ranker: BuildRanker) -> None:
    ranker, dense = build_ranker(), some_dense(1, 4)
    difference = ranker(some_tokens(1, 4), dense) - ranker(some_tokens(1, 4, seed=1), dense)
    assert (difference.abs() > 1e-3).all()


@torch.inference_mode()
def test_dense_features_are_standardised_by_what_was_fitted(build_ranker: BuildRanker) -> None:
    # feature 0 is 1 and 5: mean 3, deviation 2; the others are constant, whose deviation counts as 0.001
    ranker, identity = build_ranker(text=False), build_ranker(text=False)
    seen = np.full((1, 2, NUM_DENSE), 7.0, dtype=np.float32)
    seen[0, :, 0] = [1.0, 5.0]
    ranker.fit_scale(seen)
    given_dense = torch.full((1, 1, NUM_DENSE), 7.0)
    given_dense[..., 0], given_dense[..., 1] = 4.0, 7.001
    standardised = torch.tensor([[[0.5, 1.0, 0.0, 0.0, 0.0]]])
    tokens = some_tokens(1, 1)
    assert_close(ranker(tokens, given_dense), identity(tokens, standardised), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_missing_number_counts_as_the_mean_and_an_outlier_as_8_deviations(build_ranker: BuildRanker) -> None:
    ranker, tokens = build_ranker(text=False), some_tokens(1, 1)
    inf, nan = float("inf"), float("nan")
    odd = torch.tensor([[[nan, inf, -inf, 1e30, -9.0]]])
    assert_close(ranker(tokens, odd), ranker(tokens, torch.tensor([[[0.0, 8.0, -8.0, 8.0, -8.0]]])))


@given(
    st.lists(st.floats(width=32), min_size=2 * NUM_DENSE, max_size=2 * NUM_DENSE), st.booleans(), st.integers(0, 999)
)
@torch.inference_mode()
def test_no_number_makes_a_score_that_is_no_number(
    build_ranker: BuildRanker, numbers: list[float], text: bool, seed: int
) -> None:
    ranker = build_ranker(text=text)
    ranker.fit_scale(some_dense(20).numpy())
    dense = torch.tensor(numbers).view(1, 2, NUM_DENSE)
    assert torch.isfinite(ranker(some_tokens(1, 2, seed=seed), dense)).all()


@given(st.integers(0, 2**32 - 1))
@torch.inference_mode()
def test_candidates_in_another_order_have_their_own_scores(build_ranker: BuildRanker, seed: int) -> None:
    ranker, tokens, dense = build_ranker(), some_tokens(2, 5, seed=seed), some_dense(2, 5, seed=seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(5))
    scores = ranker(tokens, dense)
    assert_close(ranker(tokens[:, order], dense[:, order]), scores[:, order], rtol=0.0, atol=1e-5)
    assert_close(ranker(tokens[:, 3:4], dense[:, 3:4]), scores[:, 3:4], rtol=0.0, atol=1e-5)
    assert_close(ranker(tokens[1:], dense[1:]), scores[1:], rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_weights_multiply_each_part_of_the_score(build_ranker: BuildRanker) -> None:
    ranker, tokens, dense = build_ranker(), some_tokens(1, 4), some_dense(1, 4)
    of_dense = ranker.dense_part(dense)[1]
    of_text = ranker(tokens, dense) - of_dense
    ranker.weigh(dense=2.0, text=0.0)
    assert_close(ranker(tokens, dense), 2 * of_dense)
    ranker = build_ranker()
    ranker.weigh(dense=1.0, text=3.0)
    assert_close(ranker(tokens, dense), of_dense + 3 * of_text, rtol=0.0, atol=1e-5)
