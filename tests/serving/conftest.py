import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from features.transforms import QueryFeatures
from serving.model_repository import build_model_repository
from serving.pipeline import Pipeline
from serving.settings import Instances, TritonSettings
from serving.triton import TritonServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def triton_settings() -> TritonSettings:
    settings = TritonSettings(
        triton_python=ROOT / ".venv-triton" / "bin" / "python",
        templates_dir=ROOT / "triton_models",
        instances=Instances(recommend=1),
    )
    if not settings.triton_python.exists():
        pytest.skip(f"there is no Triton environment at {settings.triton_python}: `make setup` creates it")
    return settings


@pytest.fixture(scope="session")
def pipeline(tiny_release: Path, triton_settings: TritonSettings) -> Pipeline:
    """What the server runs, in this process."""
    return Pipeline.open(tiny_release, settings=triton_settings.pipeline)


@pytest.fixture(scope="session")
def release_server(
    tiny_release: Path, triton_settings: TritonSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """One real Triton for all tests that only ask it."""
    work_dir = tmp_path_factory.mktemp("release_server")
    build_model_repository(release_dir=tiny_release, repository_dir=work_dir / "models", settings=triton_settings)
    with TritonServer(settings=triton_settings, repository_dir=work_dir / "models", work_dir=work_dir) as server:
        yield server


@pytest.fixture(scope="session")
def queries(pipeline: Pipeline) -> QueryFeatures:
    """A common query, one with an unknown item, one without a history, one longer than what the towers see."""
    spec, item_ids = pipeline.release.spec, pipeline.release.item_ids
    histories = [list(item_ids[:3]), [item_ids[5], "unknown ü"], [], list(item_ids[: spec.history_length + 2])]
    num_categories, num_numbers = len(spec.names("query", "category")), len(spec.names("query", "number", "column"))
    now_ms = 1_000_000_000_000
    return QueryFeatures(
        history_item_ids=histories,
        history_events=[["rating"] * len(history) for history in histories],
        history_values=[[4.0] * len(history) for history in histories],
        history_at_ms=[
            [now_ms - 1000 * (len(history) - place) for place in range(len(history))] for history in histories
        ],
        texts=[""] * len(histories),
        categories=[["" if n % 2 else "F"] * num_categories for n in range(len(histories))],
        numbers=[[float("nan") if n % 2 else 30.0] * num_numbers for n in range(len(histories))],
        requested_at_ms=[now_ms] * len(histories),
    )


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 300 items with random weights; its models are as real as ONNX gets, and a few kB."""
    directory = tmp_path_factory.mktemp("tiny_release") / "release"
    source = importlib.util.spec_from_file_location("tiny_release", Path(__file__).with_name("tiny_release.py"))
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    module.build_tiny_release(directory, generator=np.random.default_rng(0))
    return directory


@pytest.fixture(scope="session")
def build_queries() -> Callable[[list[list[str]]], QueryFeatures]:
    """Queries of the tiny release with these histories, which differ in all else too; some values are missing."""

    def build(histories: list[list[str]]) -> QueryFeatures:
        now_ms, num = 1_000_000_000_000, len(histories)
        return QueryFeatures(
            history_item_ids=histories,
            history_events=[[("rating", "view")[place % 2] for place in range(len(history))] for history in histories],
            history_values=[[1.0 + place % 5 for place in range(len(history))] for history in histories],
            history_at_ms=[
                [now_ms - 60_000 * (len(history) - place) for place in range(len(history))] for history in histories
            ],
            texts=[""] * num,
            categories=[[("F", "M", "")[n % 3], ("artist", "nobody")[n % 2]] for n in range(num)],
            numbers=[[float("nan") if n % 3 == 2 else 20.0 + n] for n in range(num)],
            requested_at_ms=[now_ms + n for n in range(num)],
        )

    return build
