import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.split import TimeSplit
from lifecycle.cuts import CUTS, FOLD, REFIT
from lifecycle.train_towers import EpochSeed, TowersTraining, item_counts, neighbour_tables, query_rows, write_json
from serving.retrieval import NEIGHBOUR_WEIGHTS, Stage1

EVENTS = [
    *[("q1", "a", 1, "train"), ("q1", "b", 2, "train"), ("q1", "c", 3, "validation"), ("q1", "d", 4, "test")],
    *[("q2", "a", 1, "train"), ("q2", "b", 2, "train"), ("q2", "d", 3, "ranking"), ("q2", "c", 4, "test")],
]


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=["a", "b", "c", "d", "nobodys"])


def drawn(seed: int, epoch: int) -> list[float]:
    with torch.random.fork_rng():
        EpochSeed(seed).on_train_epoch_start(SimpleNamespace(current_epoch=epoch), None)  # type: ignore[arg-type]
        return torch.rand(3).tolist()


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    torch.rand(7)
    assert drawn(1, 3) == drawn(1, 3)


def test_epochs_and_seeds_draw_differently() -> None:
    assert len({tuple(drawn(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


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
        (tmp_path / cut.name).mkdir()
        (tmp_path / cut.name / "training.json").write_text('{"epochs": 3}')
    # Whatever it touched would fail: nothing of a training is given.
    missing = dict.fromkeys(TowersTraining.__dataclass_fields__)
    TowersTraining(**missing).run(tmp_path)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fold", "refit", "training.json", "training.json"]


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
        assert "train/loss" in (towers / cut.name / "curves" / "metrics.csv").read_text().splitlines()[0]


def test_the_refit_trains_as_long_as_was_best_for_the_fold(smoke_run: Path) -> None:
    fold, refit = (json.loads((smoke_run / "demo" / "towers" / cut.name / "training.json").read_text()) for cut in CUTS)
    assert refit == {"cut": "refit", "epochs": fold["epochs"]}
    assert 1 <= fold["epochs"] <= 2
    assert 0 <= fold["validation/ndcg@10"] <= fold["validation/recall@100"] <= 1


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
