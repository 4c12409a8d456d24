import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from ranking.export import SIZES_FILE, WEIGHTS_FILE, export_ranker, load_ranker, save_ranker
from ranking.model import Ranker

BuildRanker = Callable[..., Ranker]

# torch 2.13's own exporter copies a LeafSpec.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")


def inputs(*shape: int) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    """Tokens with [PAD] inside and at the end, and dense features of which some are missing."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 40, size=(*shape, 8))
    tokens[generator.random(tokens.shape) < 0.3] = 0
    tokens[..., 0] = 1
    dense = generator.normal(size=(*shape, 5)).astype(np.float32)
    dense[generator.random(dense.shape) < 0.1] = np.nan
    return {"tokens": tokens, "dense": dense}


def torch_scores(model: Ranker, feeds: dict[str, NDArray[np.int64] | NDArray[np.float32]]) -> NDArray[np.float32]:
    with torch.inference_mode():
        scores: NDArray[np.float32] = model(*(torch.from_numpy(feeds[name]) for name in ("tokens", "dense"))).numpy()
    return scores


@pytest.fixture(scope="module")
def model(build_ranker: BuildRanker) -> Ranker:
    ranker = build_ranker()
    ranker.fit_scale(np.random.default_rng(1).normal(1.0, 2.0, size=(50, 5)).astype(np.float32))
    return ranker


@pytest.fixture(scope="module")
def exported(model: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exporter takes seconds, so all tests share one file."""
    path = tmp_path_factory.mktemp("export") / "ranker.onnx"
    export_ranker(model, path, spec_hash="abc")
    return path


@pytest.fixture(scope="module")
def session(exported: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (8, 1), (3, 100)])
def test_onnx_scores_any_number_of_queries_and_candidates_as_torch(
    session: onnxruntime.InferenceSession, model: Ranker, shape: tuple[int, int]
) -> None:
    feeds = inputs(*shape)
    scores = session.run(["scores"], feeds)[0]
    assert scores.shape == shape
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, torch_scores(model, feeds), atol=1e-5)


def test_onnx_is_one_file_with_the_spec_of_its_features(exported: Path) -> None:
    proto = onnx.load(exported)
    assert {entry.key: entry.value for entry in proto.metadata_props}["spec_hash"] == "abc"
    assert [entry.name for entry in proto.graph.input] == ["tokens", "dense"]
    assert [entry.name for entry in proto.graph.output] == ["scores"]
    assert [file.name for file in exported.parent.iterdir()] == ["ranker.onnx"]


@pytest.mark.parametrize("text", [True, False], ids=["text", "dense alone"])
def test_a_saved_ranker_scores_the_same(build_ranker: BuildRanker, tmp_path: Path, text: bool) -> None:
    saved, feeds = build_ranker(text=text), inputs(2, 3)
    saved.fit_scale(np.random.default_rng(1).normal(1.0, 2.0, size=(50, 5)).astype(np.float32))
    save_ranker(saved, tmp_path / "ranker", spec_hash="abc")
    loaded = load_ranker(tmp_path / "ranker")
    assert not loaded.training
    assert json.loads((tmp_path / "ranker" / SIZES_FILE).read_text())["spec_hash"] == "abc"
    np.testing.assert_array_equal(torch_scores(loaded, feeds), torch_scores(saved, feeds))


def test_a_saved_teacher_goes_on_reading_embeddings(build_ranker: BuildRanker, tmp_path: Path) -> None:
    saved, feeds = build_ranker(embeddings=True), inputs(2, 3)
    embedded = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
    feeds["dense"] = np.concatenate([feeds["dense"], embedded], axis=2)
    save_ranker(saved, tmp_path, spec_hash="abc")
    loaded = load_ranker(tmp_path)
    assert isinstance(loaded, Ranker)
    assert loaded.embedding_width == 4
    np.testing.assert_array_equal(torch_scores(loaded, feeds), torch_scores(saved, feeds))


def test_a_ranker_of_before_reads_none(model: Ranker, tmp_path: Path) -> None:
    save_ranker(model, tmp_path, spec_hash="abc")
    sizes = json.loads((tmp_path / SIZES_FILE).read_text())
    del sizes["cross"]["embedding_width"]
    (tmp_path / SIZES_FILE).write_text(json.dumps(sizes))
    loaded = load_ranker(tmp_path)
    assert isinstance(loaded, Ranker)
    np.testing.assert_array_equal(torch_scores(loaded, inputs(2, 3)), torch_scores(model, inputs(2, 3)))


def test_what_reads_embeddings_is_not_exported_for_serving(build_ranker: BuildRanker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ranker\.onnx: this ranker reads the towers' embeddings, so it is a teacher"):
        export_ranker(build_ranker(embeddings=True), tmp_path / "ranker.onnx", spec_hash="abc")
    assert not list(tmp_path.iterdir())


def test_a_ranker_half_saved_is_no_ranker(model: Ranker, tmp_path: Path) -> None:
    # The sizes are what marks a directory as complete, so they are written last: here the weights cannot be written.
    (tmp_path / WEIGHTS_FILE).mkdir()
    with pytest.raises(Exception, match="directory"):
        save_ranker(model, tmp_path, spec_hash="abc")
    with pytest.raises(FileNotFoundError, match="no ranker in"):
        load_ranker(tmp_path)


def test_a_directory_without_a_ranker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no ranker in .*: run scripts/train_ranker\.py"):
        load_ranker(tmp_path)
