"""What Triton reads from disk: a model repository made of a release and the templates in triton_models/.

Owns the layout of the repository and what is filled into the templates. Files are copies: Triton refuses symbolic links
that leave their folder, and a release may be replaced while its copy is being served.
"""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from string import Template

import onnxruntime

from serving.errors import EnvironmentMissing
from serving.release import verify
from serving.settings import TritonSettings

ONNX_MODELS = ("query_tower", "item_tower", "ranker")
PYTHON_MODELS = ("recommend", "change_items")
VERSION = "1"


def build_model_repository(*, release_dir: Path, repository_dir: Path, settings: TritonSettings) -> None:
    """Write the repository of a release beside `repository_dir`, then put it there in one step.

    Raises:
        ReleaseDamaged: the release is not what its manifest says. `recommend` looks again when it loads.
    """
    release_dir = release_dir.resolve()
    verify(release_dir)
    building = repository_dir.with_name(repository_dir.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    inputs: dict[str, list[str]] = {}
    for name in ONNX_MODELS:
        (building / name / VERSION).mkdir(parents=True)
        model = building / name / VERSION / "model.onnx"
        shutil.copyfile(release_dir / f"{name}.onnx", model)
        inputs[name] = _input_names(model)
        config = _rendered(
            settings.templates_dir / name, _instances(settings.instances.device, getattr(settings.instances, name))
        )
        (building / name / "config.pbtxt").write_text(_with_inputs(config, inputs[name]), encoding="utf-8")
    for name in PYTHON_MODELS:
        (building / name / VERSION).mkdir(parents=True)
        shutil.copyfile(settings.templates_dir / name / VERSION / "model.py", building / name / VERSION / "model.py")
    values = {
        **_instances("cpu", settings.instances.recommend),  # its arrays are numpy's, whatever the models run on
        "queue_delay_us": str(settings.queue_delay_us),
        "release_dir": _quoted(str(release_dir)),
        "models": _quoted(settings.models),
        "model_inputs": _quoted(json.dumps(inputs)),
        "pipeline": _quoted(json.dumps(asdict(settings.pipeline))),
    }
    for name in PYTHON_MODELS:
        config = _rendered(settings.templates_dir / name, values)
        (building / name / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.rmtree(repository_dir, ignore_errors=True)
    building.rename(repository_dir)


def build_backends(*, python_backend_files: list[Path], backends_dir: Path, templates_dir: Path) -> None:
    """Write the backend directory: Triton's Python backend and, on top of it, this project's `onnxruntime`."""
    shutil.rmtree(backends_dir, ignore_errors=True)
    (backends_dir / "python").mkdir(parents=True)
    for source in python_backend_files:
        shutil.copy2(source, backends_dir / "python" / source.name)  # with its mode: the stub is a program
    own = templates_dir / "backends" / "onnxruntime" / "model.py"
    if not own.is_file():
        raise EnvironmentMissing(f"{own} is missing: set templates_dir to the project's triton_models/")
    (backends_dir / "onnxruntime").mkdir()
    shutil.copyfile(own, backends_dir / "onnxruntime" / "model.py")


def _rendered(template_dir: Path, values: dict[str, str]) -> str:
    return Template((template_dir / "config.pbtxt").read_text(encoding="utf-8")).substitute(values)


def _input_names(model: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # only the names matter
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [one.name for one in session.get_inputs()]


def _with_inputs(config: str, names: list[str]) -> str:
    """Leave the inputs out that the model does not have: a ranker without text takes no tokens."""
    lines = config.splitlines(keepends=True)
    declared = [re.match(r'input \{ name: "(\w+)"', line) for line in lines]
    return "".join(line for line, found in zip(lines, declared, strict=True) if not found or found[1] in names)


def _instances(device: str, count: int) -> dict[str, str]:
    return {"kind": f"KIND_{device.upper()}", "count": str(count)}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # the escapes of a protobuf text string and of json agree here
