from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytorch_lightning.callbacks import Callback

from lifecycle.tracking import FilesLogger, MlflowLogger, RunFacts, flat
from serving.registry import mlflow_client

FACTS = RunFacts(
    settings={"towers": {"width": 8, "history": {"events": True}}, "sources": ["a", "b"], "empty": {}},
    tags={"dataset_fingerprint": "f00d"},
)


class BrokenOff(Exception):  # what happened
    pass


class BreakOff(Callback):
    """Ends training in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 29:
            raise BrokenOff


class Tracked(NamedTuple):
    client: Any
    directory: Path
    run_id: str
    status_between: str
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module, since its first start runs all of MLflow's migrations."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture(scope="module")
def tracked(uri: str, small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """A training of 40 steps that was broken off at the 29th and went on from the 24th."""
    directory = tmp_path_factory.mktemp("training") / "towers" / "fold"
    changes = {"build_logger": partial(MlflowLogger, uri=uri, experiment="small"), "facts": FACTS}
    with pytest.raises(BrokenOff):
        small_training.train(directory, watchers=[BreakOff()], **changes)
    client = mlflow_client(uri)
    run_id = (directory / "curves" / "mlflow_run_id").read_text()
    between = client.get_run(run_id).info.status
    _, metrics = small_training.train(directory, **changes)
    assert (directory / "curves" / "mlflow_run_id").read_text() == run_id
    return Tracked(client, directory, run_id, between, metrics)


def test_a_run_that_was_broken_off_goes_on_as_the_same_run(tracked: Tracked) -> None:
    run = tracked.client.get_run(tracked.run_id)
    assert (tracked.status_between, run.info.status) == ("FAILED", "FINISHED")
    assert len(tracked.client.search_runs([run.info.experiment_id])) == 1


def test_a_run_has_every_step_once_although_some_ran_twice(tracked: Tracked) -> None:
    history = tracked.client.get_metric_history(tracked.run_id, "train/epoch_loss")
    assert sorted(metric.step for metric in history) == [8, 16, 24, 32, 40]
    steps = [metric.step for metric in tracked.client.get_metric_history(tracked.run_id, "train/loss")]
    assert len(set(steps)) == len(steps) == 40 / 4  # every fourth is logged
    history = tracked.client.get_metric_history(tracked.run_id, "validation/recall_at_100")
    assert len(history) == 5 + 1  # each epoch, and the best one at the end


def test_the_last_value_of_a_metric_is_that_of_the_epoch_that_is_kept(tracked: Tracked) -> None:
    found = tracked.client.get_run(tracked.run_id).data.metrics
    assert found["validation/ndcg_at_10"] == pytest.approx(tracked.metrics["validation/ndcg@10"])


def test_a_run_says_from_what_it_was_made(tracked: Tracked) -> None:
    data = tracked.client.get_run(tracked.run_id).data
    assert data.params == {
        "towers.width": "8",
        "towers.history.events": "True",
        "sources": "['a', 'b']",
        "empty": "{}",
    }
    assert {"dataset_fingerprint": "f00d", "cut": "fold"}.items() <= data.tags.items()
    assert len(data.tags["spec_hash"]) == 16
    assert data.tags["mlflow.source.git.commit"]


def test_a_run_holds_the_report_beside_its_database(tracked: Tracked, uri: str) -> None:
    names = {file.path for file in tracked.client.list_artifacts(tracked.run_id)}
    assert names == {"curves.csv", "curves.png", "mlflow_run_id"}
    stored = list((Path(uri.removeprefix("sqlite:///")).parent / "mlflow_artifacts").rglob("curves.csv"))
    assert [path.read_text() for path in stored] == [(tracked.directory / "curves" / "curves.csv").read_text()]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(uri: str, tmp_path: Path) -> None:
    open_run: Callable[..., MlflowLogger] = partial(
        MlflowLogger, uri=uri, experiment="anew", directory=tmp_path, name="towers fold"
    )
    first, second = open_run(goes_on=False).version, open_run(goes_on=False).version
    client = mlflow_client(uri)
    assert [client.get_run(run_id).info.status for run_id in (first, second)] == ["KILLED", "RUNNING"]


def test_a_run_that_mlflow_no_longer_knows_begins_anew(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow_run_id").write_text("0" * 32)
    run = MlflowLogger(uri=uri, experiment="anew", directory=tmp_path, name="towers fold", goes_on=True)
    assert run.version != "0" * 32
    assert f"MLflow does not know the run {'0' * 32} any more" in caplog.text


def test_the_files_logger_writes_settings_and_metrics_beside_the_report(small_training: Any, tmp_path: Path) -> None:
    directory = tmp_path / "towers" / "fold"
    small_training.train(directory, build_logger=FilesLogger, facts=FACTS)
    names = {path.name for path in (directory / "curves").iterdir()}
    assert names == {"curves.csv", "curves.png", "metrics.csv", "hparams.yaml"}
    assert "towers.width: 8\n" in (directory / "curves" / "hparams.yaml").read_text()
    assert "train/epoch_loss" in (directory / "curves" / "metrics.csv").read_text().splitlines()[0]


def test_nested_settings_get_dotted_names_and_lists_stay_whole() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": [{"f": 2}], "g": {}}) == {
        "a.b.c": 1,
        "a.d": None,
        "e": [{"f": 2}],
        "g": {},
    }
