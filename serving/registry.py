"""Which release is the champion: MLflow's model registry.

Owns versions, aliases and their metrics, and how MLflow is opened. A release is a directory that serving/release.py
verifies; the registry knows where it lies and the hash of its manifest, nothing of what is in it.
"""

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serving.errors import ReleaseDamaged, ServingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_TAG = "manifest_sha256"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class RegisteredRelease:
    """A version in the registry.

    Attributes:
        source: where the release lies, a local path or the URI of a store.
        is_new: false where the same release was registered before.
    """

    name: str
    version: int
    alias: str
    source: str
    manifest_sha256: str
    is_new: bool = False

    @property
    def path(self) -> Path:
        """The release directory; ServingError if it lies in a store and has to be fetched first."""
        if not _is_local(self.source):
            raise ServingError(
                f"expected version {self.version} of {self.name} in a local directory; it lies at {self.source}, "
                "fetch it and open the copy"
            )
        return Path(self.source)


def register_release(
    release_dir: Path,
    *,
    uri: str,
    name: str = "twostage",
    alias: str = "champion",
    metrics: Mapping[str, float],
    facts: Mapping[str, str],
    source: str | None = None,
) -> RegisteredRelease:
    """Register a release and point the alias to it; the same release again keeps its version.

    Args:
        release_dir: holds a manifest.json.
        uri: of the tracking server, which is the registry too; sqlite:///outputs/demo/mlflow.db is a file here.
        name: of the model in the registry.
        alias: moved from the version that has it.
        metrics: logged in the version's run; MLflow takes no `@`, so ndcg@10 becomes ndcg_at_10.
        facts: of the manifest, kept as tags of the version.
        source: where others reach the release; needed where `uri` is a server, None is `release_dir`.

    Raises:
        ReleaseDamaged: there is no manifest.
        ServingError: the registry is a server and the source a local path.
    """
    source = str(release_dir.resolve()) if source is None else source
    if urlsplit(uri).scheme in ("http", "https") and _is_local(source):
        raise ServingError(
            f"expected a source that clients of the registry {uri} can reach; got the local path {source}; copy the "
            "release to a store and pass its URI as source"
        )
    manifest_sha256 = _manifest_sha256(release_dir)
    client = mlflow_client(uri)
    version = _version_of(client, name=name, manifest_sha256=manifest_sha256)
    is_new = version is None
    if version is None:
        tags = {**facts, MANIFEST_TAG: manifest_sha256}
        run_id = _log_run(client, name=name, run_name=release_dir.name, metrics=metrics, tags=tags)
        version = int(client.create_model_version(name, source=source, run_id=run_id, tags=tags).version)
    client.set_registered_model_alias(name, alias, str(version))
    source = str(client.get_model_version(name, str(version)).source)
    logger.info("%s version %d is now the %s (%s)", name, version, alias, source)
    return RegisteredRelease(
        name=name, version=version, alias=alias, source=source, manifest_sha256=manifest_sha256, is_new=is_new
    )


def resolve(*, uri: str, name: str = "twostage", alias: str = "champion") -> RegisteredRelease:
    """The release that has the alias.

    Raises:
        ServingError: nothing has it; the message names the aliases there are.
        ReleaseDamaged: the release was removed, or its manifest is no longer the registered one.
    """
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise ServingError(f"expected a registry at {uri}; {file} is not there; scripts/export_release.py makes it")
    client = mlflow_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        models = {model.name: model.aliases for model in client.search_registered_models()}
        raise ServingError(
            f"expected a release of {name!r} with the alias {alias!r} in {uri}; it has {models or 'no model'}; "
            "scripts/export_release.py registers one"
        ) from error
    expected, source = str(found.tags.get(MANIFEST_TAG, "")), str(found.source)
    if _is_local(source) and (got := _manifest_sha256(Path(source))) != expected:
        raise ReleaseDamaged(
            f"{Path(source) / MANIFEST} has the hash {got} but version {found.version} of {name} was registered with "
            f"{expected}; export and register the release again"
        )
    return RegisteredRelease(
        name=name, version=int(found.version), alias=alias, source=source, manifest_sha256=expected
    )


def mlflow_client(uri: str) -> "MlflowClient":
    """MLflow's client, imported here because it takes seconds and because what follows must precede the import."""
    # MLflow sends events about its use to its makers unless this is set when it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates a loader strategy that MLflow 3.17 configures.
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        file = sqlite_file(uri)
        if file is not None and not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            logger.info("making MLflow's database %s: its first start runs all migrations, 5 to 25 s", file)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def metric_name(name: str) -> str:
    """A name that MLflow takes: ndcg@10 becomes ndcg_at_10."""
    return name.replace("@", "_at_")


def _version_of(client: "MlflowClient", *, name: str, manifest_sha256: str) -> int | None:
    """The newest version with this manifest whose release is still where it was registered."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
        return None
    found = client.search_model_versions(f"name = '{name}' and tags.{MANIFEST_TAG} = '{manifest_sha256}'")
    sources = {int(version.version): str(version.source) for version in found}
    return max((v for v, at in sources.items() if not _is_local(at) or (Path(at) / MANIFEST).is_file()), default=None)


def _log_run(
    client: "MlflowClient", *, name: str, run_name: str, metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    from mlflow.entities import Metric
    from mlflow.utils.validation import MAX_METRICS_PER_BATCH

    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run_id = str(client.create_run(experiment_id, run_name=run_name, tags=dict(tags)).info.run_id)
    now_ms = int(time.time() * 1_000)
    logged = [Metric(metric_name(key), float(value), now_ms, 0) for key, value in metrics.items()]
    for start in range(0, len(logged), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=logged[start : start + MAX_METRICS_PER_BATCH])
    client.set_terminated(run_id)
    return run_id


def _manifest_sha256(release_dir: Path) -> str:
    try:
        return hashlib.sha256((release_dir / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise ReleaseDamaged(f"expected a release at {release_dir}; its {MANIFEST}: {error.strerror}") from error


def sqlite_file(uri: str) -> Path | None:
    """The file that a database is; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _is_local(source: str) -> bool:
    return urlsplit(source).scheme == ""
