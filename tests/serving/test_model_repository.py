import dataclasses
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

from serving import wire
from serving.errors import ReleaseDamaged
from serving.model_repository import build_backends, build_model_repository
from serving.release import seal, verify
from serving.settings import Instances, TritonSettings

ROOT = Path(__file__).parents[2]
SETTINGS = TritonSettings(templates_dir=ROOT / "triton_models")
DATATYPES = {"BYTES": "STRING"}  # as config.pbtxt calls it


def configs(repository_dir: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in repository_dir.glob("*/config.pbtxt")}


def test_a_release_becomes_a_complete_repository(tiny_release: Path, tmp_path: Path) -> None:
    build_model_repository(release_dir=tiny_release, repository_dir=tmp_path / "models", settings=SETTINGS)

    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "models/change_items/1/model.py",
        "models/change_items/config.pbtxt",
        "models/item_tower/1/model.onnx",
        "models/item_tower/config.pbtxt",
        "models/query_tower/1/model.onnx",
        "models/query_tower/config.pbtxt",
        "models/ranker/1/model.onnx",
        "models/ranker/config.pbtxt",
        "models/recommend/1/model.py",
        "models/recommend/config.pbtxt",
    }
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))  # Triton refuses them
    for name, config in configs(tmp_path / "models").items():
        assert f'name: "{name}"' in config
        assert "$" not in config
        assert "kind: KIND_CPU" in config
    assert json.dumps(str(tiny_release.resolve())) in configs(tmp_path / "models")["recommend"]


def test_settings_reach_the_configs(tiny_release: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SETTINGS, models="bls", queue_delay_us=700, instances=Instances(recommend=4, ranker=3, device="gpu")
    )

    build_model_repository(release_dir=tiny_release, repository_dir=tmp_path / "models", settings=settings)

    built = configs(tmp_path / "models")
    assert "instance_group { kind: KIND_GPU count: 3 }" in built["ranker"]
    assert "instance_group { kind: KIND_GPU count: 1 }" in built["query_tower"]
    assert "instance_group { kind: KIND_CPU count: 4 }" in built["recommend"]
    assert "max_queue_delay_microseconds: 700" in built["recommend"]
    assert 'key: "models" value { string_value: "bls" }' in built["recommend"]


def test_the_config_of_recommend_declares_the_tensors_of_the_wire_format() -> None:
    config = (ROOT / "triton_models" / "recommend" / "config.pbtxt").read_text()

    for side, tensors in (("input", wire.INPUTS), ("output", wire.OUTPUTS)):
        declared = dict(re.findall(rf'^{side} {{ name: "(\w+)" data_type: TYPE_(\w+) ', config, flags=re.MULTILINE))
        assert declared == {name: DATATYPES.get(datatype, datatype) for name, datatype in tensors.items()}
    assert f"max_batch_size: {wire.MAX_BATCH}\n" in config


def test_an_input_that_a_ranker_does_not_have_is_not_declared(tiny_release: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_release, tmp_path / "release")
    value_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceSum", ["dense", "axis"], ["scores"], keepdims=0)],
        "without text",
        [value_info("dense", onnx.TensorProto.FLOAT, ["N", "C", "F"])],
        [value_info("scores", onnx.TensorProto.FLOAT, ["N", "C"])],
        initializer=[onnx.helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "release" / "ranker.onnx")
    seal(tmp_path / "release", facts={"spec_hash": verify(tiny_release)["spec_hash"]})

    build_model_repository(release_dir=tmp_path / "release", repository_dir=tmp_path / "models", settings=SETTINGS)

    built = configs(tmp_path / "models")
    assert "dense" in built["ranker"]
    assert "tokens" not in built["ranker"].partition("name:")[2]  # the comment above says why
    assert '\\"ranker\\": [\\"dense\\"]' in built["recommend"]


@pytest.mark.parametrize("name", ["ranker.onnx", "index.faiss"])
def test_a_damaged_release_is_refused_by_the_name_of_its_file(tiny_release: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_release, tmp_path / "release")
    (tmp_path / "release" / name).write_bytes(b"")

    with pytest.raises(ReleaseDamaged, match=re.escape(name)):
        build_model_repository(release_dir=tmp_path / "release", repository_dir=tmp_path / "models", settings=SETTINGS)

    assert not (tmp_path / "models").exists()


def test_a_new_release_replaces_the_repository_and_a_killed_build(tiny_release: Path, tmp_path: Path) -> None:
    for leftover in ("models", "models.tmp"):
        (tmp_path / leftover / "old").mkdir(parents=True)

    build_model_repository(release_dir=tiny_release, repository_dir=tmp_path / "models", settings=SETTINGS)

    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert not (tmp_path / "models" / "old").exists()


def test_the_backend_directory_holds_copies(tmp_path: Path) -> None:
    stub = tmp_path / "triton_python_backend_stub"
    stub.write_text("stub")
    stub.chmod(0o755)

    build_backends(
        python_backend_files=[stub], backends_dir=tmp_path / "backends", templates_dir=SETTINGS.templates_dir
    )

    copy = tmp_path / "backends" / "python" / stub.name
    assert copy.stat().st_mode & 0o111
    assert (tmp_path / "backends" / "onnxruntime" / "model.py").is_file()
    assert not any(path.is_symlink() for path in (tmp_path / "backends").rglob("*"))
