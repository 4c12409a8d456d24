"""Where a training's settings, metrics and report are kept: MLflow, files beside the result, or nowhere.

Owns the two loggers that conf/logger names, and what is written down about a run. Both are loggers of Lightning's,
which hands them every metric; what else they are asked is in `RunLogger`.
"""

import logging
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

from lifecycle.steps import source_commit
from serving.registry import metric_name, mlflow_client, sqlite_file

logger = logging.getLogger(__name__)

RUN_ID_FILE = "mlflow_run_id"
COMMIT_TAG = "mlflow.source.git.commit"  # MLflow's page shows it
MAX_PARAMS = 100  # that MLflow takes at once
MAX_METRICS = 1000
MAX_VALUE = 6000  # characters of a parameter


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before it begins.

    Attributes:
        settings: all that change its result, as nested plain values.
        tags: names and hashes of what it was made from.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class RunLogger(Protocol):
    """A logger of Lightning's that is told about the run as well."""

    def begin(self, facts: RunFacts) -> None:
        """Write down what is known before training, once a run."""

    def finish(self, report: Path) -> None:
        """Keep the files of a directory: training is over."""


class FilesLogger(CSVLogger):
    """metrics.csv and hparams.yaml beside the training's report.

    Args:
        directory: of the training's report.
        name: of the run, for loggers of many.
        goes_on: whether the run was killed and goes on.
    """

    def __init__(self, *, directory: Path, name: str, goes_on: bool) -> None:
        super().__init__(save_dir=str(directory), name="", version="")

    def begin(self, facts: RunFacts) -> None:
        """Settings and tags as hparams.yaml."""
        self.log_hyperparams({**flat(facts.settings), **facts.tags})

    def finish(self, report: Path) -> None:
        """The report lies there already."""


class MlflowLogger(Logger):
    """A run of MLflow's. Lightning's own logger cuts the `@` out of a metric's name and writes at every call.

    What a step logs is written once its epoch is in a checkpoint (40 ms a write to sqlite), so that a run that was
    killed and goes on has every step once.

    Args:
        uri: of the tracking server; sqlite:///outputs/mlflow.db is a file here, and files go beside it.
        experiment: that the run belongs to.
        directory: of the training's report; the run's id lies there.
        name: of the run.
        goes_on: whether the run was killed and goes on.
    """

    def __init__(self, *, uri: str, experiment: str, directory: Path, name: str, goes_on: bool) -> None:
        super().__init__()
        self._name = name
        self._metrics: list[tuple[str, float, int, int]] = []  # name, value, instant, step
        self._client = mlflow_client(uri)
        database = sqlite_file(uri)
        # Without this MLflow would keep files where the process happens to run; a server knows its own store.
        self._artifacts = None if database is None else str(database.resolve().with_name("mlflow_artifacts"))
        self._run_id = self._opened(directory / RUN_ID_FILE, experiment, goes_on=goes_on)

    @property
    def name(self) -> str:
        """Of the run."""
        return self._name

    @property
    def version(self) -> str:
        """MLflow's id of the run."""
        return self._run_id

    def begin(self, facts: RunFacts) -> None:
        """Settings as parameters, where the run has none yet; tags anew."""
        for name, value in {**facts.tags, COMMIT_TAG: source_commit()}.items():
            self._client.set_tag(self._run_id, name, value)
        if not self._client.get_run(self._run_id).data.params:
            self.log_hyperparams(dict(facts.settings))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any) -> None:
        """Nested settings as parameters with dotted names."""
        from mlflow.entities import Param

        nested = vars(params) if isinstance(params, Namespace) else params
        entities = [Param(metric_name(name), str(value)[:MAX_VALUE]) for name, value in flat(nested).items()]
        for start in range(0, len(entities), MAX_PARAMS):
            self._client.log_batch(self._run_id, params=entities[start : start + MAX_PARAMS])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remember them until the next checkpoint."""
        now_ms = int(time.time() * 1_000)
        self._metrics += [(metric_name(name), float(value), now_ms, step or 0) for name, value in metrics.items()]

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: object) -> None:
        """Write what is now certain."""
        self._write()

    def finish(self, report: Path) -> None:
        """Write the rest, and the report's files."""
        self._write()
        self._client.log_artifacts(self._run_id, str(report))
        self._client.set_terminated(self._run_id)
        logger.info("MLflow: run %s, %s", self._run_id, self._name)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Say of a run that was broken off that it was; one that fitted well is over when its report is there."""
        if status not in ("success", "finished"):
            self._metrics.clear()  # of an epoch that begins anew if the run goes on
            self._client.set_terminated(self._run_id, "FAILED")

    def _opened(self, file: Path, experiment: str, *, goes_on: bool) -> str:
        if file.is_file() and self._marked(file.read_text(), "RUNNING" if goes_on else "KILLED") and goes_on:
            return file.read_text()
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = (
            self._client.create_experiment(experiment, artifact_location=self._artifacts)
            if found is None
            else found.experiment_id
        )
        run_id = str(self._client.create_run(experiment_id, run_name=self._name).info.run_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(run_id)
        return run_id

    def _marked(self, run_id: str, status: str) -> bool:
        """Give a run of before its status; false where MLflow does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status=status)
        except MlflowException as error:
            logger.warning("MLflow does not know the run %s any more (%s); a new one begins", run_id, error)
            return False
        return True

    def _write(self) -> None:
        from mlflow.entities import Metric

        entities = [Metric(*metric) for metric in self._metrics]
        for start in range(0, len(entities), MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=entities[start : start + MAX_METRICS])
        self._metrics.clear()


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with dotted names; lists stay whole."""
    return dict(_flattened(settings, prefix=""))


def _flattened(settings: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
