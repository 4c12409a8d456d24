"""The rooms of the project and who may import whom: the contracts of pyproject.toml, and proof that they bite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
LOADED_BY_TRITON = (
    "features.spec",
    "features.vocab",
    "features.transforms",
    "features.text",
    "serving.pipeline",
    "serving.release",
    "serving.item_embedder",
    "serving.deltas",
    "serving.follower",
    "serving.batch",
    "serving.bls_models",
    "serving.settings",
    "serving.wire",
)
TOO_HEAVY_FOR_TRITON = ("pyarrow", "pandas", "feast", "mlflow", "torch", "transformers", "hydra", "fastapi")

ONE_WAY = "Imports run one way"
NO_TORCH = "No deep-learning framework where serving and features run"
HYDRA = "Hydra stays in scripts"
GRPC = "gRPC stays in serving"
INDEX = "The search library stays in towers.index"
NO_TRAINING_CODE = "Serving takes no training code"
CONTRACTS = (ONE_WAY, NO_TORCH, HYDRA, GRPC, INDEX, NO_TRAINING_CODE)
ROOMS = ("features", "evaluation", "towers", "ranking", "lifecycle", "serving")

FORBIDDEN = [  # importer, imported, the contract that must be broken
    ("towers.data", "ranking.model", ONE_WAY),
    ("ranking.data", "towers.index.search", ONE_WAY),
    ("features.etl", "evaluation.metrics", ONE_WAY),
    ("evaluation.metrics", "features.spec", ONE_WAY),
    ("features.spec", "serving.release", ONE_WAY),
    ("serving.pipeline", "lifecycle.gates", ONE_WAY),
    ("features.transforms", "torch", NO_TORCH),
    ("towers.index.search", "torch", NO_TORCH),
    ("towers.retrievers.popularity", "transformers", NO_TORCH),
    ("ranking.runtime.calibration", "torch", NO_TORCH),
    ("serving.release", "pytorch_lightning", NO_TORCH),
    ("lifecycle.gates", "hydra", HYDRA),
    ("towers.data", "omegaconf", HYDRA),
    ("lifecycle.gates", "tritonclient.grpc", GRPC),
    ("evaluation.latency", "grpc", GRPC),
    ("serving.models", "faiss", INDEX),
    ("towers.retrievers.knn", "faiss", INDEX),
    ("lifecycle.refresh", "faiss", INDEX),
    ("evaluation.recall", "scann", INDEX),
    ("serving.models", "towers.model", NO_TRAINING_CODE),
    ("serving.fallback", "ranking.export", NO_TRAINING_CODE),
]
ALLOWED = [
    ("towers.index.build", "faiss"),
    ("serving.search", "towers.index.search"),
    ("serving.retrieve", "towers.retrievers.knn"),
    ("serving.score", "ranking.runtime.calibration"),
    ("serving.client", "tritonclient.grpc"),
    ("lifecycle.train", "towers.model"),
    ("lifecycle.join", "ranking.model"),
    ("towers.model", "torch"),
    ("ranking.model", "features.spec"),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def write_tree(folder: Path, imports: list[tuple[str, str]]) -> None:
    """Write modules that import one another, with the packages they lie in and the project's own contracts."""
    settings = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(settings[settings.index("[tool.importlinter]") :])
    for importer, imported in [*imports, *((room, "") for room in ROOMS)]:
        for module in (importer, imported):
            if module.split(".")[0] not in ROOMS:
                continue
            path = folder.joinpath(*module.split("."))
            package = path if module in ROOMS else path.parent
            package.mkdir(parents=True, exist_ok=True)
            while package != folder:
                (package / "__init__.py").touch()
                package = package.parent
            if module not in ROOMS:
                path.with_suffix(".py").touch()
        if imported:
            with folder.joinpath(*importer.split(".")).with_suffix(".py").open("a") as module_file:
                module_file.write(f"import {imported}\n")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter says of a tree full of breaches: by contract, its part of the report."""
    folder = tmp_path_factory.mktemp("broken")
    write_tree(folder, [(importer, imported) for importer, imported, _ in FORBIDDEN])
    report = lint_imports(folder)
    assert report.returncode == 1, report.stdout + report.stderr
    details = report.stdout.partition("Broken contracts")[2]
    starts = {name: details.index(f"\n{name}\n") for name in CONTRACTS}
    ends = {name: min((at for at in starts.values() if at > starts[name]), default=len(details)) for name in CONTRACTS}
    return {name: details[starts[name] : ends[name]] for name in CONTRACTS}


def test_the_project_keeps_its_import_contracts() -> None:
    report = lint_imports(ROOT)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize(("importer", "imported", "contract"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(
    broken: dict[str, str], importer: str, imported: str, contract: str
) -> None:
    shown = imported if imported.split(".")[0] in ROOMS else imported.split(".")[0]  # other packages are shown whole
    assert f"{importer} -> {shown} " in broken[contract]


def test_the_imports_that_the_design_needs_break_no_contract(tmp_path: Path) -> None:
    write_tree(tmp_path, ALLOWED)
    report = lint_imports(tmp_path)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.skipif(not TRITON_PYTHON.exists(), reason=".venv-triton is missing: make setup")
@pytest.mark.parametrize("module", LOADED_BY_TRITON)
def test_what_triton_loads_needs_no_training_package(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    answer = subprocess.run(
        [str(TRITON_PYTHON), "-c", program], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    loaded = json.loads(answer.stdout.splitlines()[-1])
    assert module.split(".")[0] in loaded
    assert [name for name in TOO_HEAVY_FOR_TRITON if name in loaded] == []


@pytest.mark.skipif(not TRITON_PYTHON.exists(), reason=".venv-triton is missing: make setup")
def test_the_triton_environment_has_a_numpy_that_its_stub_reads_rightly() -> None:
    program = "import numpy; print(numpy.__version__)"
    version = subprocess.run(
        [str(TRITON_PYTHON), "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    # 1.26.4 <= numpy < 2: with numpy 2 the stub of this Triton returns other data in the right shape.
    assert [int(part) for part in version.stdout.split(".")[:2]] == [1, 26]
