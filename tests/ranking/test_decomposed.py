from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ranking.decomposed import (
    LARGEST,
    DecomposedEncoder,
    DecomposedRanker,
    ServedDecomposedRanker,
    attended_apart,
    present,
)
from ranking.export import export_item_reader, export_ranker, load_ranker, save_ranker
from ranking.item_states import check_budget, write_item_states
from ranking.model import BertLayer, EncoderSizes

# [CLS] 2 of history [SEP], 3 of a candidate [SEP]; 3 layers of which the last is joint.
SC, SI, NUM_DENSE, PAD = 4, 4, 5, 0
SIZES = EncoderSizes(vocabulary=30, num_layers=3, width=8, num_heads=2, feed_forward_width=16, max_tokens=SC + SI)

# torch 2.13's own exporter copies a LeafSpec.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")


def a_ranker(*, width: int = 8, seed: int = 0) -> DecomposedRanker:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        encoder = DecomposedEncoder(
            sizes=SIZES, num_joint_layers=1, width=width, num_context_tokens=SC, pad_token=PAD, dropout=0.0
        )
        ranker = DecomposedRanker(encoder=encoder, num_dense=NUM_DENSE, hidden=6, dropout=0.0)
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return ranker.eval()


def some_tokens(*shape: int, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, 30, size=shape)
    tokens[generator.random(shape) < 0.3] = PAD
    tokens[..., 0] = 1
    return torch.from_numpy(tokens)


def some_dense(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(*shape, NUM_DENSE)).astype(np.float32))


@torch.inference_mode()
def test_attention_without_keys_and_values_is_that_of_the_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = BertLayer(sizes=SIZES, dropout=0.0).eval()
        context, candidates, cls = torch.randn(2, SC, 8), torch.randn(2, 3, SI, 8), torch.randn(2, 3, 8)
    context[0, 2:], candidates[1, 0, 1:] = 0.0, 0.0  # padding
    masks = present(context).transpose(1, 2).unsqueeze(1), present(candidates).transpose(2, 3)
    found = attended_apart(layer, cls, context, candidates, *masks)
    for b in range(2):
        for c in range(3):
            states = torch.cat([context[b], candidates[b, c]]).unsqueeze(0)
            mask = present(states).transpose(1, 2).unsqueeze(1)
            assert_close(found[b, c], layer(cls[b : b + 1, c : c + 1], states, mask)[0, 0], rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_a_part_is_read_as_if_the_other_were_padding() -> None:
    encoder, tokens = a_ranker().encoder, some_tokens(5, SC + SI)
    candidates = tokens.clone()
    candidates[:, :SC] = PAD
    segments = torch.tensor([0] * SC + [1] * SI)
    whole = encoder.lower.states(candidates, segments, first_position=0)[:, SC:]
    kept = tokens[:, SC:] != PAD
    assert_close(encoder.read_candidates(tokens[:, SC:])[kept], whole[kept], rtol=0.0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("width", [8, 4])
def test_states_of_many_texts_are_those_of_each(width: int) -> None:
    encoder, tokens = a_ranker(width=width).encoder, some_tokens(7, SI).numpy().astype(np.int32)
    tokens[:, -1] = PAD  # as wide as no text of a batch needs
    states = encoder.states_of(tokens, of_context=False, batch_size=3)
    one = encoder.read_candidates(torch.from_numpy(tokens[4:5]).long())
    np.testing.assert_allclose(states[4:5], one.numpy(), atol=2e-3)
    assert not states[tokens == PAD].any()


@torch.inference_mode()
def test_int8_is_a_step_off_at_most_and_padding_stays_so() -> None:
    encoder = a_ranker().encoder
    states = encoder.project(encoder.read_candidates(some_tokens(20, SI)))
    encoder.fit_state_scale(states)
    back = encoder.of_int8(encoder.as_int8(states))
    assert ((back - states).abs() <= encoder.state_scale / 2 + 1e-6).all()
    assert_close(present(back), present(states))


@torch.inference_mode()
@pytest.mark.parametrize("width", [8, 4])
def test_what_is_served_scores_as_what_was_trained_but_for_int8(width: int, tmp_path: Path) -> None:
    ranker, encoder = (found := a_ranker(width=width)), found.encoder
    context, candidates, dense = some_tokens(2, SC), some_tokens(2, 3, SI, seed=1), some_dense(2, 3)
    candidates[..., -1] = 2  # [SEP]
    table = candidates[..., :-1].flatten(0, 1).numpy().astype(np.int32)
    write_item_states(encoder, tmp_path / "states.npy", text_tokens=table, sep=2)
    states = torch.from_numpy(np.load(tmp_path / "states.npy").reshape(2, 3, SI, width))
    served = ServedDecomposedRanker(ranker)(context, states, dense)
    read = encoder.read_candidates(candidates.flatten(0, 1)).unflatten(0, (2, 3))
    assert_close(served, ranker(encoder.read_context(context), read, dense), rtol=0.0, atol=0.1)


@pytest.mark.parametrize("width", [8, 4])
def test_an_item_is_read_alone_as_among_all(width: int, tmp_path: Path) -> None:
    encoder, tokens = a_ranker(width=width).encoder, some_tokens(40, SI)
    tokens[:, -1] = 2  # [SEP]
    write_item_states(encoder, tmp_path / "states.npy", text_tokens=tokens[:, :-1].numpy().astype(np.int32), sep=2)
    export_item_reader(encoder, tmp_path / "item_reader.onnx", num_tokens=SI, spec_hash="abc")
    session = onnxruntime.InferenceSession(tmp_path / "item_reader.onnx", providers=["CPUExecutionProvider"])
    expected = np.load(tmp_path / "states.npy")
    assert np.abs(expected.astype(int)).max() == LARGEST
    for rows in (slice(0, 40), slice(7, 8)):
        found = session.run(None, {"tokens": tokens[rows].numpy()})[0]
        assert found.dtype == np.int8
        steps = np.abs(found.astype(int) - expected[rows])
        assert steps.max() <= 1
        assert (steps > 0).mean() < 0.01  # where rounding decides


@torch.inference_mode()
def test_a_candidate_scores_the_same_whatever_stands_beside_it() -> None:
    ranker = a_ranker()
    context, candidates = torch.randn(2, SC, 8), torch.randn(2, 5, SI, 8)
    dense, order = some_dense(2, 5), torch.tensor([3, 1, 4, 0, 2])
    scores = ranker(context, candidates, dense)
    assert_close(ranker(context, candidates[:, order], dense[:, order]), scores[:, order], rtol=0.0, atol=1e-5)
    assert_close(ranker(context[1:], candidates[1:, 2:3], dense[1:, 2:3]), scores[1:, 2:3], rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_an_empty_text_and_a_number_that_is_none_have_a_score() -> None:
    ranker, dense = a_ranker(), some_dense(1, 2)
    dense[0, 0, 0] = torch.nan
    scores = ranker(torch.randn(1, SC, 8), torch.zeros(1, 2, SI, 8), dense)
    assert torch.isfinite(scores).all()


@torch.inference_mode()
def test_a_saved_one_scores_the_same(tmp_path: Path) -> None:
    ranker = a_ranker(width=4)
    ranker.encoder.state_scale.fill_(0.25)
    save_ranker(ranker, tmp_path, spec_hash="abc")
    loaded = load_ranker(tmp_path)
    assert isinstance(loaded, DecomposedRanker)
    inputs = torch.randn(2, SC, 8), torch.randn(2, 3, SI, 8), some_dense(2, 3)
    assert_close(loaded(*inputs), ranker(*inputs), rtol=0.0, atol=0.0)
    assert_close(loaded.encoder.state_scale, ranker.encoder.state_scale)


def test_onnx_scores_any_number_of_queries_and_candidates_as_torch(tmp_path: Path) -> None:
    ranker, path = a_ranker(width=4), tmp_path / "ranker.onnx"
    export_ranker(ranker, path, spec_hash="abc")
    assert [entry.name for entry in onnx.load(path).graph.input] == ["context_tokens", "candidate_states", "dense"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (2, 3), (3, 100)):
        feeds = {
            "context_tokens": some_tokens(shape[0], SC).numpy(),
            "candidate_states": generator.integers(-127, 128, size=(*shape, SI, 4)).astype(np.int8),
            "dense": some_dense(*shape).numpy(),
        }
        feeds["candidate_states"][0, 0, 2:] = 0
        feeds["dense"][0, 0, 0] = np.nan
        with torch.inference_mode():
            wanted = ServedDecomposedRanker(ranker)(*map(torch.from_numpy, feeds.values())).numpy()
        scores = session.run(None, feeds)[0]
        assert scores.shape == shape
        np.testing.assert_allclose(scores, wanted, atol=1e-4)


def test_equal_texts_have_equal_states_and_every_item_has_some(tmp_path: Path) -> None:
    encoder = a_ranker().encoder
    write_item_states(
        encoder, tmp_path / "s.npy", text_tokens=np.array([[5, 6, 0], [7, 0, 0], [5, 6, 0]], dtype=np.int32), sep=2
    )
    states = np.load(tmp_path / "s.npy")
    assert (states.shape, states.dtype) == ((3, SI, 8), np.int8)
    np.testing.assert_array_equal(states[0], states[2])
    assert (states[0] != states[1]).any()
    assert not states[1, 1:3].any()  # padding; [SEP] follows it
    assert states[1, 3].any()


def test_states_that_would_swell_the_release_are_refused_with_a_width_that_fits() -> None:
    encoder = a_ranker().encoder
    check_budget(encoder, num_items=100_000, num_tokens=1250)  # 10 kB
    with pytest.raises(ValueError, match=r"may cost 10000 bytes .* 1251 tokens of width 8 cost 10008: set ranker"):
        check_budget(encoder, num_items=100_000, num_tokens=1251)
    with pytest.raises(ValueError, match="may cost 2000 bytes of the release where there are 100001"):
        check_budget(encoder, num_items=100_001, num_tokens=251)
