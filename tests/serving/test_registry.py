import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.errors import ReleaseDamaged, ServingError
from serving.registry import RegisteredRelease, register_release, resolve

METRICS = {"towers/ndcg@10": 0.09, "towers/recall@100": 0.6}
REPOSITORY = Path(__file__).parents[2]
FACTS = {"feature_spec": "abc123", "git_commit": "0f0f"}


# A process of its own, because MLflow reports its use to nobody while pytest runs.
FIRST_REGISTRATION = """
import logging, pathlib, sys

def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("asked the network:", event, arguments[1:], flush=True)

sys.addaudithook(tell)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from serving.registry import register_release

register_release(pathlib.Path(sys.argv[1]), uri=sys.argv[2], name="first", metrics={}, facts={})
from mlflow.telemetry.client import get_telemetry_client

print("telemetry:", get_telemetry_client())
"""


@dataclass(frozen=True)
class Started:
    uri: str
    printed: str
    errors: str
    files: list[str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """One database for the module, since its first start runs all of MLflow's migrations."""
    directory = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{directory}/new/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", FIRST_REGISTRATION, str(release_at(directory / "first", release_id="first")), uri],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    files = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    return Started(uri=uri, printed=done.stdout, errors=done.stderr, files=files)


@pytest.fixture(scope="module")
def uri(started: Started) -> str:
    return started.uri


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow writes ./mlruns where it is not told otherwise.
    monkeypatch.chdir(tmp_path)


def release_at(directory: Path, *, release_id: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({"release_id": release_id}), encoding="utf-8")
    return directory


def register(release: Path, *, uri: str, name: str, alias: str = "champion") -> RegisteredRelease:
    return register_release(release, uri=uri, name=name, alias=alias, metrics=METRICS, facts=FACTS)


def test_an_alias_leads_to_the_release_registered_last(tmp_path: Path, uri: str) -> None:
    first = register(release_at(tmp_path / "a", release_id="a"), uri=uri, name="last")
    second = register(release_at(tmp_path / "b", release_id="b"), uri=uri, name="last")
    assert (first.version, second.version) == (1, 2)
    found = resolve(uri=uri, name="last", alias="champion")
    assert (found.version, found.path) == (2, tmp_path / "b")
    assert found.manifest_sha256 == hashlib.sha256((tmp_path / "b" / "manifest.json").read_bytes()).hexdigest()


def test_the_same_release_keeps_its_version_and_takes_the_alias_back(tmp_path: Path, uri: str) -> None:
    old, new = release_at(tmp_path / "old", release_id="1"), release_at(tmp_path / "new", release_id="2")
    versions = [register(release, uri=uri, name="again").version for release in (old, new, old)]
    assert versions == [1, 2, 1]
    assert not register(old, uri=uri, name="again").is_new
    assert resolve(uri=uri, name="again").path == old


def test_aliases_are_apart(tmp_path: Path, uri: str) -> None:
    champion = register(release_at(tmp_path / "a", release_id="a"), uri=uri, name="apart")
    challenger = register(release_at(tmp_path / "b", release_id="b"), uri=uri, name="apart", alias="challenger")
    assert resolve(uri=uri, name="apart", alias="champion").version == champion.version
    assert resolve(uri=uri, name="apart", alias="challenger").version == challenger.version


def test_metrics_and_facts_are_in_mlflow(tmp_path: Path, uri: str) -> None:
    registered = register(release_at(tmp_path / "a", release_id="a"), uri=uri, name="facts")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version("facts", str(registered.version))
    assert {key: version.tags[key] for key in FACTS} == FACTS
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"towers/ndcg_at_10": 0.09, "towers/recall_at_100": 0.6}


def test_a_release_moved_away_is_registered_where_it_now_lies(tmp_path: Path, uri: str) -> None:
    register(release_at(tmp_path / "before", release_id="a"), uri=uri, name="moved")
    shutil.move(tmp_path / "before", tmp_path / "after")
    with pytest.raises(ReleaseDamaged, match=r"expected a release at .*before; its manifest.json: No such file"):
        resolve(uri=uri, name="moved")
    assert register(tmp_path / "after", uri=uri, name="moved").version == 2
    assert resolve(uri=uri, name="moved").path == tmp_path / "after"


def test_a_manifest_that_changed_is_refused_with_both_hashes(tmp_path: Path, uri: str) -> None:
    registered = register(release_at(tmp_path / "a", release_id="a"), uri=uri, name="changed")
    (tmp_path / "a" / "manifest.json").write_text("{}", encoding="utf-8")
    got = hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(ReleaseDamaged, match=f"has the hash {got} but .* registered with {registered.manifest_sha256}"):
        resolve(uri=uri, name="changed")


def test_an_unknown_alias_is_refused_with_those_there_are(tmp_path: Path, uri: str) -> None:
    register(release_at(tmp_path / "a", release_id="a"), uri=uri, name="known")
    with pytest.raises(ServingError, match=r"alias 'nope' in sqlite.*'known': \{'champion': '?1'?\}"):
        resolve(uri=uri, name="known", alias="nope")
    with pytest.raises(ServingError, match="expected a release of 'nobody' with the alias 'champion'"):
        resolve(uri=uri, name="nobody")


def test_a_registry_that_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"mlflow.db is not there; scripts/export_release.py makes it"):
        resolve(uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_manifest_is_no_release(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ReleaseDamaged, match=r"expected a release at .*; its manifest.json"):
        register(tmp_path, uri=uri, name="none")


def test_a_server_is_not_told_a_path_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"can reach; got the local path .*pass its URI as source"):
        register(release_at(tmp_path / "a", release_id="a"), uri="http://127.0.0.1:1", name="remote")


def test_a_release_in_a_store_has_no_local_path(tmp_path: Path, uri: str) -> None:
    registered = register_release(
        release_at(tmp_path / "a", release_id="a"), uri=uri, name="far", metrics={}, facts={}, source="s3://bucket/a"
    )
    assert resolve(uri=uri, name="far").source == "s3://bucket/a"
    with pytest.raises(ServingError, match="it lies at s3://bucket/a, fetch it"):
        registered.path  # noqa: B018 - the property raises


def test_a_first_start_announces_the_migrations_and_nothing_else_prints(started: Started) -> None:
    announced, registered, telemetry = started.printed.splitlines()
    assert announced.startswith("making MLflow's database ")
    assert registered.startswith("first version 1 is now the champion")
    assert telemetry == "telemetry: None"
    assert started.errors == ""


def test_a_first_start_writes_the_database_alone(started: Started) -> None:
    assert started.files == ["first/manifest.json", "new/mlflow.db"]
