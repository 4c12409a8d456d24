from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel

from features.transforms import ItemInputs
from tests.towers.tiny_bert import write_checkpoint
from towers.errors import UnfitPieces
from towers.model import ItemTable
from towers.text_encoder import SentenceEncoder, TextEncoder
from towers.trained_text import TEXTS_AT_A_TIME, QueryTokens, TextTraining, TrainedText

LAYERS = 3
TOY, STORY, SEA, A = 5, 6, 7, 8
ITEMS = np.array([[0, 0, 0], [0, 0, 0], [TOY, STORY, 0], [SEA, 0, 0], [A, SEA, STORY], [TOY, STORY, 0]])
LEARNING = {1: "encoder.layer.2.", 2: ("encoder.layer.1.", "encoder.layer.2."), None: ("encoder.", "embeddings.")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", seed=0, layers=LAYERS)


def trained_text(
    checkpoint: Path, tmp_path: Path, *, layers: int | None = 1, items: NDArray[np.int64] = ITEMS, per_step: int = 4
) -> TrainedText:
    return TrainedText(
        SentenceEncoder.open(str(checkpoint)),
        item_texts=items,
        settings=TextTraining(trainable_layers=layers, learning_rate=0.01, items_per_step=per_step),
        directory=tmp_path,
    )


def table_of(items: NDArray[np.int64] = ITEMS) -> ItemTable:
    rows, none = np.arange(len(items)), np.zeros((len(items), 0))
    inputs = ItemInputs(
        item_id=rows,
        categories=none.astype(np.int64)[:, :, None],
        numbers=none.astype(np.float32),
        title_tokens=none.astype(np.int32),
        text_tokens=none.astype(np.int32),
    )
    return ItemTable(items=inputs, text_embeddings=np.zeros((len(items), 8), dtype=np.float32))


def change(text: TrainedText) -> None:
    with torch.no_grad():
        for parameter in text.trained:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)


@pytest.mark.parametrize("layers", [1, 2, LAYERS, None])
def test_kept_states_and_the_layers_above_them_are_the_whole_encoder(checkpoint, tmp_path, layers):
    text = trained_text(checkpoint, tmp_path, layers=layers)
    for _ in range(2):  # made, then read
        assert_close(text(torch.from_numpy(ITEMS)), SentenceEncoder.open(str(checkpoint))(torch.from_numpy(ITEMS)))
    change(text)
    # The upper layers that answer are those that are saved.
    assert_close(text(torch.from_numpy(ITEMS)), text.sentences(torch.from_numpy(ITEMS)))


def test_a_text_is_the_same_whatever_it_is_padded_to(checkpoint, tmp_path):
    text = trained_text(checkpoint, tmp_path)
    wide = np.pad(ITEMS, ((0, 0), (0, 4)))
    assert_close(text(torch.from_numpy(wide)), text(torch.from_numpy(ITEMS)))


def test_lower_layers_run_once_for_each_text(checkpoint, tmp_path):
    text = trained_text(checkpoint, tmp_path, layers=1)
    calls = []
    encoder: Any = text.sentences.encoder
    encoder.encoder.layer[0].register_forward_hook(lambda module, given, made: calls.append(len(given[0])))
    encoder.encoder.layer[2].register_forward_hook(lambda module, given, made: calls.append(-len(given[0])))
    text.prepare(ITEMS)
    text(torch.from_numpy(ITEMS))
    change(text)
    text(torch.from_numpy(ITEMS[2:4]))
    # Four distinct texts below, the empty one among them; above six and two, as asked.
    assert calls == [4, -6, -2]


@pytest.mark.parametrize("layers", [1, 2, None])
def test_gradient_reaches_the_named_layers_and_no_others(checkpoint, tmp_path, layers):
    text, table = trained_text(checkpoint, tmp_path, layers=layers), table_of()
    text.refresh(table)
    with text.learning(table):
        loss = (table.text_embedding[2:] * torch.arange(8.0)).sum()
    loss.backward()
    learn = {name for name, parameter in text.sentences.encoder.named_parameters() if parameter.grad is not None}
    assert learn == {name for name, _ in text.sentences.encoder.named_parameters() if name.startswith(LEARNING[layers])}
    # A key's bias moves all of a query's logits alike, so that nothing can come of it.
    still = {name for name in learn if not dict(text.sentences.encoder.named_parameters())[name].grad.abs().sum() > 0}
    assert all(name.endswith("key.bias") for name in still)


def gradients_of(text: TrainedText, embed: Any) -> list[Tensor]:
    weights = torch.arange(48.0).view(6, 8) ** 0.5
    torch.autograd.backward((embed() * weights).sum())
    return [parameter.grad for parameter in text.trained]  # type: ignore[misc]


@pytest.mark.parametrize("layers", [1, None])
def test_with_room_for_all_items_the_gradient_is_that_of_encoding_all_in_the_step(checkpoint, tmp_path, layers):
    through_table, directly = (trained_text(checkpoint, tmp_path, layers=layers) for _ in range(2))
    table = table_of()
    through_table.refresh(table)
    with through_table.learning(table):
        found = gradients_of(through_table, lambda: table.text_embedding)
    expected = gradients_of(directly, lambda: directly.sentences(torch.from_numpy(ITEMS)))
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_more_texts_than_are_held_at_once_have_the_sum_of_their_gradients(checkpoint, tmp_path):
    num = 2 * TEXTS_AT_A_TIME + 5
    items = np.random.default_rng(0).integers(TOY, A + 1, size=(num, 4))
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(num, 8)).astype(np.float32))
    found = []
    for of_items in (True, False):
        text, table = trained_text(checkpoint, tmp_path, items=items, per_step=num), table_of(items)
        text.refresh(table)
        if of_items:
            with text.learning(table):
                loss = (table.text_embedding * weights).sum()
            loss.backward()
        else:  # as queries' texts are, in a step
            (text(torch.from_numpy(items)) * weights).sum().backward()
        found.append([parameter.grad for parameter in text.trained])
    whole = trained_text(checkpoint, tmp_path, items=items)
    (whole.sentences(torch.from_numpy(items)) * weights).sum().backward()
    expected = [parameter.grad for parameter in whole.trained]
    for gradients in found:
        assert_close(gradients, expected, atol=1e-4, rtol=1e-4)


def test_the_rows_with_the_largest_gradient_teach_and_are_encoded_anew(checkpoint, tmp_path):
    text, table = trained_text(checkpoint, tmp_path, per_step=2), table_of()
    text.refresh(table)
    before = table.text_embedding.clone()
    change(text)
    # Row 0 has the largest by far, and no text.
    sizes = torch.tensor([100.0, 0.0, 1.0, 3.0, 2.0, 0.5])
    with text.learning(table):
        loss = (table.text_embedding * sizes.unsqueeze(1)).sum()
    loss.backward()
    moved = (table.text_embedding != before).any(dim=1)
    assert moved.tolist() == [False, False, False, True, True, False]
    assert_close(table.text_embedding[3:5], text.sentences(torch.from_numpy(ITEMS[3:5])))


def test_the_table_is_made_anew_when_the_encoder_has_changed_and_only_then(checkpoint, tmp_path):
    text, table = trained_text(checkpoint, tmp_path), table_of()
    text.refresh(table)
    assert_close(table.text_embedding, text.sentences(torch.from_numpy(ITEMS)))
    first = table.text_embedding.clone()
    change(text)
    text.refresh(table)  # nobody said that it changed
    assert_close(table.text_embedding, first, rtol=0, atol=0)
    with text.learning(table):
        pass
    text.refresh(table)
    assert_close(table.text_embedding, text.sentences(torch.from_numpy(ITEMS)))
    assert not torch.allclose(table.text_embedding[2:], first[2:])


def test_loaded_weights_make_the_table_stale(checkpoint, tmp_path):
    text, table = trained_text(checkpoint, tmp_path), table_of()
    text.refresh(table)
    other = trained_text(checkpoint, tmp_path)
    change(other)
    text.load_state_dict(other.state_dict())
    text.refresh(table)
    assert_close(table.text_embedding, other.sentences(torch.from_numpy(ITEMS)))


def test_items_without_any_text_leave_the_queries_to_teach(checkpoint, tmp_path):
    silent = np.zeros((6, 3), dtype=np.int64)
    text, table = trained_text(checkpoint, tmp_path, items=silent), table_of(silent)
    text.refresh(table)
    assert not table.text_embedding.any()
    with text.learning(table):
        loss = (table.text_embedding[:2] + text(torch.from_numpy(ITEMS[2:4]))).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in text.trained)


def test_training_has_no_dropout(checkpoint, tmp_path):
    text, tokens = trained_text(checkpoint, tmp_path, layers=None), torch.from_numpy(ITEMS)
    in_training = text.train()(tokens)
    assert_close(in_training, text.eval()(tokens), rtol=0, atol=0)


def test_a_saved_encoder_is_a_checkpoint_for_all_that_reads_one(checkpoint, tmp_path):
    text = trained_text(checkpoint, tmp_path)
    change(text)
    text.save(tmp_path / "saved", encoder=str(checkpoint))
    expected = text(torch.from_numpy(ITEMS))
    assert_close(SentenceEncoder.open(str(tmp_path / "saved"))(torch.from_numpy(ITEMS)), expected)
    texts = ["", "", "toy story", "sea", "a sea story", "toy story"]
    again = TextEncoder(checkpoint=str(tmp_path / "saved"), cache_dir=None, max_tokens=5).encode(texts)
    np.testing.assert_allclose(again, expected.detach(), atol=1e-5)
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    AutoModel.from_pretrained(tmp_path / "saved", local_files_only=True)


@pytest.mark.parametrize("layers", [0, -1, LAYERS + 1])
def test_layers_that_an_encoder_does_not_have_are_refused(checkpoint, layers):
    settings = TextTraining(trainable_layers=layers, learning_rate=0.01, items_per_step=4)
    with pytest.raises(UnfitPieces, match=rf"trainable_layers must lie between 1 and 3, .*got {layers}: set text=full"):
        settings.check(str(checkpoint))


def test_settings_that_fit_are_not_refused(checkpoint):
    for layers in (1, LAYERS, None):
        TextTraining(trainable_layers=layers, learning_rate=0.01, items_per_step=4).check(str(checkpoint))


def test_a_step_without_items_is_refused(checkpoint):
    settings = TextTraining(trainable_layers=1, learning_rate=0.01, items_per_step=0)
    with pytest.raises(UnfitPieces, match=r"items_per_step must be at least 1; got 0"):
        settings.check(str(checkpoint))


def test_an_encoder_with_its_layers_elsewhere_is_refused(checkpoint, tmp_path):
    sentences = SentenceEncoder.open(str(checkpoint))
    sentences.encoder = torch.nn.Linear(2, 2)
    settings = TextTraining(trainable_layers=1, learning_rate=0.01, items_per_step=4)
    with pytest.raises(UnfitPieces, match="only encoders with the layers of BERT can be trained; got Linear"):
        TrainedText(sentences, item_texts=ITEMS, settings=settings, directory=tmp_path)


def test_batches_carry_the_tokens_of_queries(checkpoint):
    assert QueryTokens(SentenceEncoder.open(str(checkpoint))).embed(ITEMS) is ITEMS
