import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close
from transformers import BertModel

from ranking.model import Ranker
from ranking.teacher import PairScorer, ScoreCache, pretrained_encoder, score_pairs, teacher_scorer

BuildRanker = Callable[..., Ranker]


class CountingRanker(Ranker):
    """A ranker with the weights of another that counts its pairs, and is killed when it has scored `limit`."""

    def __init__(self, like: Ranker, *, limit: int | None = None) -> None:
        super().__init__(
            encoder=like.encoder,
            num_dense=len(like.dense_mean),
            segments=like.segments.numpy(),
            hidden=like.joint[-1].in_features,
            dropout=0.0,
            embedding_width=like.embedding_width,
        )
        self.load_state_dict(like.state_dict())
        self.limit = limit
        self.num_pairs = 0

    def forward(self, tokens: Tensor, dense: Tensor) -> Tensor:
        if self.limit is not None and self.num_pairs >= self.limit:
            raise KeyboardInterrupt
        self.num_pairs += tokens.shape[0] * tokens.shape[1]
        return super().forward(tokens, dense)


def pairs(num: int, *, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 40, size=(num, 8)).astype(np.int32)
    return tokens, generator.normal(size=(num, 5)).astype(np.float32)


def test_a_pair_scores_as_in_a_list(build_ranker: BuildRanker) -> None:
    tokens, dense = pairs(6)
    with torch.inference_mode():
        lists = build_ranker()(torch.from_numpy(tokens).long().view(2, 3, 8), torch.from_numpy(dense).view(2, 3, 5))
    np.testing.assert_allclose(score_pairs(build_ranker(), tokens, dense), lists.flatten(), atol=1e-6)


def test_the_cache_answers_what_the_model_would(build_ranker: BuildRanker, tmp_path: Path) -> None:
    tokens, dense = pairs(10)
    tokens[7], dense[7] = tokens[2], dense[2]  # the same pair twice
    scores = ScoreCache(tmp_path / "new" / "scores.sqlite").score(build_ranker(), tokens, dense, batch_size=4)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, score_pairs(build_ranker(), tokens, dense), atol=1e-6)


def test_nothing_is_scored_twice(build_ranker: BuildRanker, tmp_path: Path) -> None:
    model = CountingRanker(build_ranker())
    tokens, dense = pairs(600)  # more than one query of the database asks for
    first = ScoreCache(tmp_path / "scores.sqlite").score(model, tokens, dense)
    assert model.num_pairs == 600
    order = np.random.default_rng(0).permutation(600)
    again = ScoreCache(tmp_path / "scores.sqlite").score(model, tokens[order], dense[order])
    assert model.num_pairs == 600
    np.testing.assert_array_equal(again, first[order])


def test_only_what_is_new_is_scored(build_ranker: BuildRanker, tmp_path: Path) -> None:
    model, cache = CountingRanker(build_ranker()), ScoreCache(tmp_path / "scores.sqlite")
    tokens, dense = pairs(10)
    cache.score(model, tokens[:7], dense[:7])
    np.testing.assert_allclose(cache.score(model, tokens, dense), score_pairs(build_ranker(), tokens, dense), atol=1e-6)
    assert model.num_pairs == 10
    other_tokens, other_dense = tokens.copy(), dense.copy()
    other_tokens[0, 3] += 1
    other_dense[1, 0] += 1
    cache.score(model, other_tokens, other_dense)
    assert model.num_pairs == 12


def test_other_embeddings_of_the_same_pair_are_scored_anew(build_ranker: BuildRanker, tmp_path: Path) -> None:
    model, cache = CountingRanker(build_ranker(embeddings=True)), ScoreCache(tmp_path / "scores.sqlite")
    tokens, dense = pairs(10)
    embedded = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    before = cache.score(model, tokens, np.concatenate([dense, embedded], axis=1))
    embedded[3, 2] += 1.0
    after = cache.score(model, tokens, np.concatenate([dense, embedded], axis=1))
    assert model.num_pairs == 11
    assert np.flatnonzero(before != after).tolist() == [3]


def test_other_weights_have_other_scores(build_ranker: BuildRanker, tmp_path: Path) -> None:
    cache, (tokens, dense) = ScoreCache(tmp_path / "scores.sqlite"), pairs(10)
    model = CountingRanker(build_ranker())
    before = cache.score(model, tokens, dense)
    with torch.no_grad():
        model.joint[-1].bias += 1.0
    np.testing.assert_allclose(cache.score(model, tokens, dense), before + 1.0, atol=1e-5)
    assert model.num_pairs == 20
    with torch.no_grad():
        model.joint[-1].bias -= 1.0
    model.load_state_dict(build_ranker().state_dict())
    np.testing.assert_array_equal(cache.score(model, tokens, dense), before)
    assert model.num_pairs == 20


def test_what_was_scored_before_a_kill_is_kept(build_ranker: BuildRanker, tmp_path: Path) -> None:
    path, (tokens, dense) = tmp_path / "scores.sqlite", pairs(10)
    killed = CountingRanker(build_ranker(), limit=6)
    with pytest.raises(KeyboardInterrupt):
        ScoreCache(path).score(killed, tokens, dense, batch_size=3)
    assert killed.num_pairs == 6
    resumed = CountingRanker(build_ranker())
    scores = ScoreCache(path).score(resumed, tokens, dense, batch_size=3)
    assert resumed.num_pairs == 4
    np.testing.assert_allclose(scores, score_pairs(build_ranker(), tokens, dense), atol=1e-6)


def test_the_cache_keeps_what_packed_rows_score_before_a_kill(build_ranker: BuildRanker, tmp_path: Path) -> None:
    path, model, (tokens, dense) = tmp_path / "scores.sqlite", build_ranker(), pairs(10)
    num_scored = 0

    def killed_after_6(model: Ranker) -> PairScorer:
        packed = teacher_scorer(model, num_workers=2)

        def score(tokens: NDArray[np.int32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal num_scored
            if num_scored == 6:
                raise KeyboardInterrupt
            num_scored += len(tokens)
            return packed(tokens, dense)

        return score

    with pytest.raises(KeyboardInterrupt):
        ScoreCache(path, open_scorer=killed_after_6).score(model, tokens, dense, batch_size=3)
    counting = CountingRanker(model)  # of the same weights, by torch
    scores = ScoreCache(path).score(counting, tokens, dense)
    assert counting.num_pairs == 4
    np.testing.assert_allclose(scores, score_pairs(model, tokens, dense), atol=1e-4)


def test_where_nothing_is_missing_no_scorer_is_opened(build_ranker: BuildRanker, tmp_path: Path) -> None:
    def refused(model: Ranker) -> PairScorer:
        raise AssertionError("all pairs are known")

    path, (tokens, dense) = tmp_path / "scores.sqlite", pairs(10)
    first = ScoreCache(path, open_scorer=teacher_scorer).score(build_ranker(), tokens, dense)
    again = ScoreCache(path, open_scorer=refused).score(build_ranker(), tokens, dense)
    np.testing.assert_array_equal(again, first)


def test_a_teacher_without_text_is_scored_too(build_ranker: BuildRanker) -> None:
    model, (tokens, dense) = build_ranker(text=False), pairs(4)
    np.testing.assert_array_equal(teacher_scorer(model)(tokens, dense), score_pairs(model, tokens, dense))


def test_no_pairs_have_no_scores(build_ranker: BuildRanker, tmp_path: Path) -> None:
    assert ScoreCache(tmp_path / "scores.sqlite").score(build_ranker(), *pairs(0)).shape == (0,)


@torch.inference_mode()
@pytest.mark.parametrize("num_layers", [None, 1])
def test_a_checkpoint_is_read_with_its_sizes(bert_checkpoint: Path, bert: BertModel, num_layers: int | None) -> None:
    encoder = pretrained_encoder(bert_checkpoint, pad_token=0, dropout=0.3, num_layers=num_layers).eval()
    tokens = torch.from_numpy(pairs(4)[0]).long()
    states = bert(tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True).hidden_states
    expected = states[-1 if num_layers is None else num_layers][:, 0]
    assert_close(encoder(tokens, torch.zeros(8, dtype=torch.int64)), expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("trainable_layers", "trained"),
    [(0, []), (1, [2]), (2, [1, 2]), (3, [0, 1, 2]), (4, [0, 1, 2])],
)
def test_training_changes_the_last_layers_that_were_asked_for(
    bert_checkpoint: Path, trainable_layers: int, trained: list[int]
) -> None:
    encoder = pretrained_encoder(bert_checkpoint, pad_token=0, dropout=0.0, trainable_layers=trainable_layers)
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in names} == {str(layer) for layer in trained}
    assert all(name.startswith("layers.") for name in names)


def test_without_a_number_everything_is_trained(bert_checkpoint: Path) -> None:
    encoder = pretrained_encoder(bert_checkpoint, pad_token=0, dropout=0.0)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    with pytest.raises(ValueError, match=r"reads BERT checkpoints; this one is of type 'distilbert'"):
        pretrained_encoder(tmp_path, pad_token=0, dropout=0.0)
