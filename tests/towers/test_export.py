from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from features.columns import FeatureColumns
from features.spec import TextLayout
from features.tower_inputs import QueryTowerInputs
from features.transforms import ItemInputs
from features.vocab import NumberScale, Vocabularies, Vocabulary
from serving.item_embedder import MAX_TOKENS
from tests.towers.query_towers.by_hand import VARIANTS, stir
from tests.towers.tiny_bert import write_checkpoint
from towers.export import WEIGHTS_FILE, export_onnx, export_text_encoder, export_towers
from towers.model import ItemTable, TowerSizes, TwoTower, build_two_tower
from towers.query_towers.history import HistoryEncoding
from towers.text_encoder import SentenceEncoder, TextEncoder

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")

LENGTH, WIDTH, TEXT_WIDTH = 8, 8, 4


class Exported(NamedTuple):
    model: TwoTower
    directory: Path
    spec_hash: str


@pytest.fixture(scope="module")
def exported(ring: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Both towers with weights far from their small initial ones, written once: the exporter takes seconds."""
    model, directory = ring.model(seed=1), tmp_path_factory.mktemp("export")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    export_towers(model, directory, history_length=LENGTH, spec_hash=ring.spec.hash)
    return Exported(model, directory, ring.spec.hash)


def query_arguments(num: int) -> dict[str, Tensor]:
    """Queries of which the first has no history and the last a full one."""
    generator = torch.Generator().manual_seed(num)
    lengths = torch.tensor([0, 3, LENGTH])[-num:]
    return {
        "history_embeddings": torch.randn(num, LENGTH, WIDTH, generator=generator),
        "history_mask": torch.arange(LENGTH) >= LENGTH - lengths.unsqueeze(1),
        "history_events": torch.randint(0, 3, (num, LENGTH), generator=generator),
        "history_values": torch.randn(num, LENGTH, generator=generator),
        "history_gap_days": 10 ** (torch.rand(num, LENGTH, generator=generator) * 7 - 5),  # a second to 100 days
        "query_categories": torch.randint(0, 4, (num, 1), generator=generator),
        "query_numbers": torch.randn(num, 1, generator=generator),
    }


def session_of(exported: Exported, file: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported.directory / file, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("num", [1, 3])
def test_the_query_tower_answers_as_in_torch_for_any_number_of_queries(exported, num):
    arguments = query_arguments(num)
    session = session_of(exported, "query_tower.onnx")
    (found,) = session.run(["query_embedding"], {name: tensor.numpy() for name, tensor in arguments.items()})
    with torch.inference_mode():
        expected = exported.model.query_tower(QueryTowerInputs(**arguments, query_text=torch.zeros(num, 0)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (num, WIDTH)


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"causal"}))
def test_a_query_tower_of_every_kind_answers_as_in_torch(ring, tmp_path, variant):
    model = build_two_tower(
        sizes=TowerSizes.of(ring.spec, ring.vocabularies, text_width=6),
        item_table=ring.model(seed=1).item_table,
        width=WIDTH,
        query_tower=VARIANTS[variant],
        history=partial(HistoryEncoding, values=True),
    )
    stir(model, seed=2)
    export_towers(model, tmp_path, history_length=LENGTH, spec_hash=ring.spec.hash)
    session = onnxruntime.InferenceSession(tmp_path / "query_tower.onnx", providers=["CPUExecutionProvider"])
    for num in (1, 3):
        arguments = query_arguments(num)
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in arguments.items()})
        with torch.inference_mode():
            expected = model.query_tower(QueryTowerInputs(**arguments, query_text=torch.zeros(num, 0)))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rows", [[2], [0, 1, 31]])
def test_the_item_tower_answers_as_in_torch_for_any_number_of_items(exported, rows):
    item_id, categories, numbers, text = exported.model.item_table(torch.tensor(rows))
    session = session_of(exported, "item_tower.onnx")
    arguments = {
        "item_id": item_id.unsqueeze(1),
        "categories": categories,
        "numbers": numbers,
        "text_embedding": text,
    }
    (found,) = session.run(["item_embedding"], {name: tensor.numpy() for name, tensor in arguments.items()})
    with torch.inference_mode():
        expected = exported.model.embed_items(torch.tensor(rows))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_both_files_carry_the_hash_of_the_feature_spec(exported):
    for file in ("query_tower.onnx", "item_tower.onnx"):
        metadata = session_of(exported, file).get_modelmeta().custom_metadata_map
        assert metadata["spec_hash"] == exported.spec_hash


def test_inputs_have_the_names_and_types_that_the_server_sends(exported):
    inputs = {
        file: {node.name: (node.type, node.shape[1:]) for node in session_of(exported, file).get_inputs()}
        for file in ("query_tower.onnx", "item_tower.onnx")
    }
    assert inputs["query_tower.onnx"] == {
        "history_embeddings": ("tensor(float)", [LENGTH, WIDTH]),
        "history_mask": ("tensor(bool)", [LENGTH]),
        "history_events": ("tensor(int64)", [LENGTH]),
        "history_values": ("tensor(float)", [LENGTH]),
        "history_gap_days": ("tensor(float)", [LENGTH]),
        "query_categories": ("tensor(int64)", [1]),
        "query_numbers": ("tensor(float)", [1]),
    }
    assert inputs["item_tower.onnx"] == {
        "item_id": ("tensor(int64)", [1]),
        "categories": ("tensor(int64)", [2, 2]),
        "numbers": ("tensor(float)", [1]),
        "text_embedding": ("tensor(float)", [6]),
    }


def test_a_file_is_whole_by_itself(exported):
    assert sorted(path.name for path in exported.directory.iterdir()) == [
        "item_tower.onnx",
        "query_tower.onnx",
        WEIGHTS_FILE,
    ]
    onnx.checker.check_model(onnx.load(exported.directory / "query_tower.onnx"))


def test_saved_weights_give_the_same_towers_again(ring, exported):
    model = ring.model(seed=9).eval()
    model.load_state_dict(load_file(exported.directory / WEIGHTS_FILE))
    assert_close(model.embed_catalogue(), exported.model.embed_catalogue())


def test_a_text_that_comes_later_is_embedded_as_those_of_the_catalogue(tmp_path):
    checkpoint = str(write_checkpoint(tmp_path / "tiny", seed=0, layers=2))
    texts = ["toy story sea", "", "a " * 9, "toys", "\u200b", "story a"]
    expected = TextEncoder(checkpoint=checkpoint, cache_dir=None, max_tokens=7).encode(texts)
    path = tmp_path / "text_encoder.onnx"
    encoder = SentenceEncoder.open(checkpoint)
    export_text_encoder(encoder, path, max_tokens=7, spec_hash="abc")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"spec_hash": "abc", MAX_TOKENS: "7"}
    tokens = encoder.tokenizer.sentences(texts, max_tokens=7)
    assert tokens.shape == (6, 5)
    assert_close(session.run(None, {"tokens": tokens})[0], expected, rtol=0.0, atol=1e-5)
    for row in range(len(texts)):
        length = max(int((tokens[row] != encoder.pad).sum()), 1)  # one token as well as many
        found = session.run(None, {"tokens": tokens[row : row + 1, :length]})[0]
        assert_close(found, expected[row : row + 1], rtol=0.0, atol=1e-5)


class Sums(nn.Module):
    """As an encoder of sentences answers: the state of a place is its token, times the place's mask."""

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        numbers = torch.arange(1.0, TEXT_WIDTH + 1)
        return SimpleNamespace(last_hidden_state=(input_ids * attention_mask).unsqueeze(-1) * numbers % 7)


def test_a_query_tower_with_text_takes_tokens_and_embeds_them_itself(tmp_path):
    columns = FeatureColumns(
        query_categories=(),
        query_numbers=(),
        item_categories=(),
        item_numbers=(),
        item_texts=(),
        query_text="asked",
        history_length=LENGTH,
    )
    spec = columns.spec(text=TextLayout(query_tokens=5), ranker_features=())
    vocabularies = Vocabularies(
        categories={"item_id": Vocabulary(tuple("abc")), "event": Vocabulary(("asked",))},
        numbers={"history_value": NumberScale(0.0, 1.0)},
    )
    no_tokens = np.zeros((5, 1), dtype=np.int32)
    items = ItemInputs(
        item_id=np.arange(5),
        categories=np.zeros((5, 0, 1), dtype=np.int64),
        numbers=np.zeros((5, 0), dtype=np.float32),
        title_tokens=no_tokens,
        text_tokens=no_tokens,
    )
    item_texts = np.random.default_rng(0).normal(size=(5, TEXT_WIDTH)).astype(np.float32)
    model = build_two_tower(
        sizes=TowerSizes.of(spec, vocabularies, text_width=TEXT_WIDTH),
        item_table=ItemTable(items=items, text_embeddings=item_texts),
        width=WIDTH,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    sentences = SentenceEncoder(Sums(), tokenizer=SimpleNamespace(pad=0, cls=1, sep=2))  # type: ignore[arg-type]
    export_towers(
        model,
        tmp_path,
        history_length=LENGTH,
        spec_hash=spec.hash,
        sentence_encoder=sentences.eval(),
        query_tokens=5,
    )
    session = onnxruntime.InferenceSession(tmp_path / "query_tower.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    # Categories and numbers stay inputs, of no width; so does what this tower has no weights for.
    assert names == [field.name for field in fields(QueryTowerInputs)]
    tokens = torch.tensor([[5, 6, 4, 8, 9], [7, 3, 0, 0, 0], [0, 0, 0, 0, 0]])
    for num in (1, 3):
        asked = query_arguments(num)
        asked |= {name: asked[name][:, :0] for name in ("query_categories", "query_numbers")}
        with torch.inference_mode():
            text = sentences(tokens[:num])
            learned = model.query_tower(QueryTowerInputs(**asked, query_text=text))
        asked["query_text"] = tokens[:num]
        (found,) = session.run(["query_embedding"], {name: asked[name].numpy() for name in names})
        np.testing.assert_allclose(found, torch.cat([learned, text], dim=1), atol=1e-5)


class Scale(nn.Module):
    """Twice the input; dropout shows whether the export was of the training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, values: Tensor) -> Tensor:
        doubled: Tensor = self.dropout(values) * 2
        return doubled


def test_further_axes_can_be_dynamic_and_dropout_is_not_exported(tmp_path):
    export_onnx(
        Scale().train(),
        {"values": torch.ones(2, 3)},
        output_name="doubled",
        path=tmp_path / "scale.onnx",
        spec_hash="abc",
        dynamic_axes={"values": (1,)},
    )
    session = onnxruntime.InferenceSession(tmp_path / "scale.onnx", providers=["CPUExecutionProvider"])
    (doubled,) = session.run(None, {"values": np.ones((4, 7), dtype=np.float32)})
    np.testing.assert_array_equal(doubled, np.full((4, 7), 2.0))
