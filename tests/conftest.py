"""One run of the main job for every test that looks at a run's results, and one server of its release.

A run lies as `<folder>/demo` beside what it shares with other runs: lists/, mlflow.db, teacher.sqlite, cache/.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from xdist.scheduler import LoadFileScheduling

from features.dataset import Dataset
from features.stores.online_store import OnlineStore
from lifecycle.serve import Addresses, ServeSettings, serve_settings, serving
from serving.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]
TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
WHEELS = ROOT / ".cache" / "wheels"
SCRIPT_TIMEOUT_S = 500.0

# A shell has what it starts in the background ignore Ctrl-C, and so the processes of tests, some of which are about it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SMOKE_FIXTURES = re.compile(r"\bsmoke_(run|dataset|store|pipeline)\b|\bserved: Addresses\b")


class SmokeFilesTogether(LoadFileScheduling):
    """Files are shared out among processes; those that look at the smoke run are one, so that it is made but once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "smoke" if file in self._smoke_files else file

    @cached_property
    def _smoke_files(self) -> set[str]:
        files = (ROOT / "tests").rglob("test_*.py")
        return {
            str(path.relative_to(ROOT)) for path in files if SMOKE_FIXTURES.search(path.read_text(encoding="utf-8"))
        }


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return SmokeFilesTogether(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def start_script() -> Callable[..., subprocess.Popen[str]]:
    """Start `scripts/NAME.py` with overrides as a shell would: where the project lies, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}

    def start(name: str, *overrides: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *overrides],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def run_script(start_script: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same, until it ends; what it printed is in `stdout`."""

    def run(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        with start_script(name, *overrides) as process:
            try:
                printed, _ = process.communicate(timeout=SCRIPT_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, printed)

    return run


@pytest.fixture(scope="session")
def smoke_settings() -> Callable[[Path], list[str]]:
    """Overrides of a run in `<folder>/demo`: small, and touching nothing outside the folder."""

    def settings(folder: Path) -> list[str]:
        return [
            "experiment=smoke",
            f"run_dir={folder}/demo",
            f"lists={folder}/lists",
            f"registry_uri=sqlite:///{folder}/mlflow.db",
            f"features.encoder.cache_dir={folder}/cache",
            f"ranker.teacher.cache={folder}/teacher.sqlite",
            f"teacher_cache={folder}/teacher.sqlite",
        ]

    return settings


@pytest.fixture(scope="session")
def smoke_run(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
    smoke_settings: Callable[[Path], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a whole run of the main job with experiment=smoke; output.txt is what it printed."""
    for needed in (TRITON_PYTHON, WHEELS / "recbole-1.2.1-py3-none-any.whl"):
        if not needed.exists():
            pytest.skip(f"{needed} is missing: `make setup` brings it")
    folder = tmp_path_factory.mktemp("smoke")
    done = run_script("run_pipeline", *smoke_settings(folder))
    (folder / "output.txt").write_text(done.stdout)
    if done.returncode != 0:
        pytest.fail(f"the main job ended with status {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def smoke_config() -> dict[str, Any]:
    """Every setting of the run but its folders, as plain values."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose(config_name="run_pipeline", overrides=["experiment=smoke"])
    content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)
    return content


@pytest.fixture(scope="session")
def smoke_dataset(smoke_run: Path, smoke_config: dict[str, Any]) -> Dataset:
    columns = instantiate(smoke_config["features"]["columns"], _convert_="all")
    return Dataset.read(smoke_run / "demo" / "data", name="movielens100k", columns=columns)


@pytest.fixture(scope="session")
def smoke_store(smoke_run: Path) -> OnlineStore:
    return OnlineStore.open(smoke_run / "demo" / "online_store")


@pytest.fixture(scope="session")
def smoke_serving(smoke_config: dict[str, Any]) -> ServeSettings:
    """Settings by which the run's release was served, but with a deadline that a busy machine keeps."""
    serving_config = smoke_config["serving"]
    gateway = {**serving_config["gateway"], "deadline_ms": 30_000.0}
    return serve_settings({**serving_config, "gateway": gateway})


@pytest.fixture(scope="session")
def smoke_pipeline(smoke_run: Path, smoke_serving: ServeSettings) -> Pipeline:
    """What Triton runs, in this process."""
    return Pipeline.open(smoke_run / "demo" / "release", settings=smoke_serving.triton.pipeline)


@pytest.fixture(scope="session")
def served(
    smoke_run: Path, smoke_serving: ServeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Addresses]:
    """Triton and a gateway that serve the run's release."""
    demo = smoke_run / "demo"
    with serving(
        smoke_serving,
        release_dir=demo / "release",
        store_dir=demo / "online_store",
        work_dir=tmp_path_factory.mktemp("served"),
    ) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def processes_naming() -> Callable[[Path], list[str]]:
    """Command lines of the processes that name a folder: what serves from it, or works in it."""

    def naming(folder: Path) -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if str(folder) in line:
                found.append(line)
        return found

    return naming
