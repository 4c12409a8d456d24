from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from features.tower_inputs import QueryTowerInputs
from features.transforms import RankerInputs
from serving.models import OnnxModels, open_session
from serving.release import RANKER_FILE
from serving.retrieval import QUERY_TOWER_FILE

N, C, L, D, S = 3, 4, 10, 8, 14


@pytest.fixture(scope="module")
def models(tiny_release: Path) -> OnnxModels:
    return OnnxModels(query_tower=tiny_release / QUERY_TOWER_FILE, ranker=tiny_release / RANKER_FILE)


def weights_of(path: Path) -> dict[str, NDArray[np.float32]]:
    return {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}


def tower_inputs() -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    return {
        "history_embeddings": generator.normal(size=(N, L, D)).astype(np.float32),
        "history_mask": generator.random((N, L)) < 0.5,
        "history_events": generator.integers(0, 3, size=(N, L)),
        "history_values": generator.normal(size=(N, L)).astype(np.float32),
        "history_gap_days": generator.random((N, L)).astype(np.float32),
        "query_categories": generator.integers(0, 4, size=(N, 2)),
        "query_numbers": generator.normal(size=(N, 1)).astype(np.float32),
        "query_text": np.zeros((N, 0), dtype=np.int64),
    }


def ranker_inputs(num_dense: int) -> RankerInputs:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 5, size=(N, C, S))
    return RankerInputs(
        tokens=tokens,
        context_tokens=tokens[:, 0, :8],
        candidate_states=np.zeros((N, C, 6, 0), dtype=np.int8),
        dense=generator.normal(size=(N, C, num_dense)).astype(np.float32),
    )


def row_of(inputs: RankerInputs, n: int) -> RankerInputs:
    return RankerInputs(**{name: array[n : n + 1] for name, array in inputs.by_name.items()})


def write_dense_ranker(path: Path) -> None:
    """scores [N, C] = sum of dense [N, C, 2]; there are no tokens."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["dense", "last"], ["scores"], keepdims=0)],
        "dense",
        [helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["N", "C", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "C"])],
        initializer=[helper.make_tensor("last", TensorProto.INT64, [1], [2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def test_the_tower_gives_what_its_session_gives(models: OnnxModels, tiny_release: Path) -> None:
    inputs = tower_inputs()
    session = onnxruntime.InferenceSession(str(tiny_release / QUERY_TOWER_FILE), providers=["CPUExecutionProvider"])
    embeddings = models.query_tower(QueryTowerInputs(**inputs))
    assert embeddings.shape == (N, D)
    assert embeddings.dtype == np.float32
    # The tower of a release whose queries have no text takes none.
    del inputs["query_text"]
    np.testing.assert_array_equal(embeddings, session.run(["query_embedding"], inputs)[0])


def test_the_ranker_gives_what_its_weights_say(models: OnnxModels, tiny_release: Path) -> None:
    # the tiny release's ranker: the sum of its tokens' values, plus a linear layer over the dense features
    weights = weights_of(tiny_release / RANKER_FILE)
    inputs = ranker_inputs(len(weights["dense_weights"]))
    expected = (
        weights["token_table"][inputs.tokens].sum(axis=(2, 3)) + (inputs.dense @ weights["dense_weights"])[..., 0]
    )
    scores = models.ranker(inputs)
    assert scores.shape == (N, C)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_ranker_without_text_takes_no_tokens(tiny_release: Path, tmp_path: Path) -> None:
    write_dense_ranker(tmp_path / "ranker.onnx")
    models = OnnxModels(query_tower=tiny_release / QUERY_TOWER_FILE, ranker=tmp_path / "ranker.onnx")
    dense = np.array([[[1.0, 2.0], [3.0, 4.0]]], dtype=np.float32)
    scores = models.ranker(replace(row_of(ranker_inputs(2), 0), dense=dense))
    np.testing.assert_array_equal(scores, [[3.0, 7.0]])  # 1 + 2, 3 + 4


def test_models_opened_without_a_ranker_say_so(tiny_release: Path) -> None:
    models = OnnxModels(query_tower=tiny_release / QUERY_TOWER_FILE, ranker=None)
    with pytest.raises(ValueError, match="opened without a ranker"):
        models.ranker(ranker_inputs(5))


def test_a_batch_equals_its_rows_one_at_a_time(models: OnnxModels, tiny_release: Path) -> None:
    tower, ranker = tower_inputs(), ranker_inputs(len(weights_of(tiny_release / RANKER_FILE)["dense_weights"]))
    embeddings, scores = models.query_tower(QueryTowerInputs(**tower)), models.ranker(ranker)
    for n in range(N):
        one_tower = {name: array[n : n + 1] for name, array in tower.items()}
        np.testing.assert_allclose(models.query_tower(QueryTowerInputs(**one_tower))[0], embeddings[n], atol=1e-5)
        np.testing.assert_allclose(models.ranker(row_of(ranker, n))[0], scores[n], atol=1e-5)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_session_runs_on_the_threads_asked_for_and_does_not_spin(tiny_release: Path, num_threads: int) -> None:
    options = open_session(tiny_release / RANKER_FILE, num_threads=num_threads).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (num_threads, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
