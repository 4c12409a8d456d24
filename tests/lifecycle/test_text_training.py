"""The text encoder trained with the towers: to the bit after a kill, refused where it cannot be, served as trained."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from features.spec import TextLayout
from features.tower_inputs import QueryTowerInputs
from features.transforms import item_inputs
from lifecycle.cuts import FOLD, REFIT
from lifecycle.entry import LIBRARY_CHATTER
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from serving.retrieval import ARRAYS_DIR
from towers.data import query_tensors, training_windows
from towers.errors import UnfitPieces
from towers.export import WEIGHTS_FILE, export_text_encoder
from towers.model import ItemTable, TowerSizes
from towers.text_encoder import SentenceEncoder
from towers.trained_text import TEXT_ENCODER_DIR

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{message}") for message in LIBRARY_CHATTER),
]

SCRIPT = Path(__file__).with_name("small_training.py")
ROOT = SCRIPT.parents[2]
KILLED_AT = 29  # of 40 steps, in the middle of the fourth epoch of 8


class Trained(NamedTuple):
    steps: Any
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def whole(small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("whole")
    return Trained(*small_training.train(folder / "fold", **small_training.with_trained_text(folder, layers=1)))


def test_a_killed_training_goes_on_to_the_very_weights_of_the_encoder(
    whole: Trained, small_training: Any, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "fold"), str(KILLED_AT), "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    changes = small_training.with_trained_text(tmp_path, layers=1)
    steps, metrics = small_training.train(tmp_path / "fold", **changes)
    assert list(steps.losses) == list(range(25, 41))
    assert steps.losses == {step: loss for step, loss in whole.steps.losses.items() if step > 24}
    assert steps.weights == whole.steps.weights
    assert steps.optimiser == whole.steps.optimiser
    assert metrics == whole.metrics


def test_the_last_layer_learns_and_what_is_below_stays(whole: Trained, small_training: Any, tmp_path: Path) -> None:
    changes = small_training.with_trained_text(tmp_path, layers=1)
    before = SentenceEncoder.open(changes["text_encoder"].checkpoint).encoder.state_dict()
    moved = {
        name
        for name, tensor in before.items()
        if not torch.equal(tensor, torch.tensor(whole.steps.weights[f"text.sentences.encoder.{name}"]))
    }
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved)


@pytest.fixture(scope="module", params=[1, None], ids=["last layer", "full"])
def written(request: Any, small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("written")
    changes = small_training.with_trained_text(folder, layers=request.param)
    training = small_training.small_training(max_epochs=2, **changes)
    for cut, epochs in ((FOLD, None), (REFIT, 1)):
        training.train(cut, folder / cut.name, max_epochs=epochs)
    return training, folder


@pytest.mark.parametrize("cut", [FOLD, REFIT], ids=["fold", "refit"])
def test_what_is_written_embeds_texts_by_the_trained_encoder(written: tuple[Any, Path], cut: Any) -> None:
    training, folder = written
    directory = folder / cut.name
    vocabularies = training.dataset.fit_vocabularies(cut.splits, columns=training.columns)
    saved, before = (
        SentenceEncoder.open(str(checkpoint))
        for checkpoint in (directory / TEXT_ENCODER_DIR, training.text_encoder.checkpoint)
    )
    embeddings = np.load(directory / TEXT_EMBEDDINGS_FILE)
    tokens = saved.tokenizer.encode([f"film {item}" for item in training.dataset.items.catalogue.item_ids], length=6)
    np.testing.assert_allclose(embeddings[2:], saved.embed(tokens.astype(np.int64)), atol=1e-5)
    assert np.abs(embeddings[2:] - before.embed(tokens.astype(np.int64))).max() > 1e-3
    # As a release embeds items that come later.
    text_encoder = directory / "text_encoder.onnx"
    export_text_encoder(saved, text_encoder, max_tokens=training.text_encoder.max_tokens, spec_hash="")
    session = onnxruntime.InferenceSession(text_encoder, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"tokens": tokens.astype(np.int64)})[0], embeddings[2:], atol=1e-5)
    # The towers as trained, from their files.
    items = item_inputs(
        training.dataset.items, spec=training.spec, vocabularies=vocabularies, tokenizer=saved.tokenizer
    )
    towers = training.build_model(
        sizes=TowerSizes.of(training.spec, vocabularies, text_width=embeddings.shape[1]),
        item_table=ItemTable(items=items, text_embeddings=embeddings),
    ).eval()
    towers.load_state_dict(load_file(directory / WEIGHTS_FILE))
    windows = training_windows(
        training.dataset, cut.splits, spec=training.spec, vocabularies=vocabularies, query_texts=saved
    )
    history, *query = query_tensors(windows.inputs, windows.texts)
    with torch.inference_mode():
        catalogue = towers.embed_catalogue()
        inputs = QueryTowerInputs(catalogue[history], *query)
        expected = towers.query_tower(inputs)
    np.testing.assert_allclose(np.load(directory / ARRAYS_DIR / "item_embeddings.npy"), catalogue, atol=1e-5)
    session = onnxruntime.InferenceSession(directory / "query_tower.onnx", providers=["CPUExecutionProvider"])
    given = {**inputs.by_name, "query_text": torch.from_numpy(windows.inputs.text_tokens)}
    found = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
    # The tower's embedding, and after it that of the text itself.
    np.testing.assert_allclose(found, np.concatenate([expected, windows.texts], axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, r"text.trainable_layers must lie between 1 and 2, the layers of .*; got 3: set text=full"),
        ({"silent": True}, "the text encoder is to be trained, and dataset by_hand has no texts: set text=precomputed"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_training(
    small_training: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    pieces = small_training.with_trained_text(tmp_path, layers=changes.get("layers", 1))
    if "silent" in changes:
        columns = replace(pieces["columns"], query_text="", item_texts=())
        names = pieces["spec"].names("ranker", "number")
        pieces |= {"columns": columns, "spec": columns.spec(text=TextLayout(), ranker_features=names)}
    training = small_training.small_training(**pieces)
    for begin in (training.run, training.tried):
        with pytest.raises(UnfitPieces, match=message):
            begin(tmp_path / "towers")
