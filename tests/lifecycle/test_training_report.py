from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pandas as pd
import torch

from lifecycle.training_report import Curves, curves_figure, finding, write_curves, write_report

FOLD = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "steps": [10, 20, 30],
        "train/epoch_loss": [7.0, 6.5, 6.25],
        "learning_rate": [0.1, 0.05, 0.01],
        "validation/ndcg@10": [0.1, 0.12, 0.11],
        "validation/recall@100": [0.5, 0.6, 0.7],
    }
)


def test_the_title_states_which_epoch_is_kept_and_what_it_reaches() -> None:
    assert finding(FOLD, name="fold", best_epoch=2, num_requests=943) == (
        "fold: the loss goes from 7.000 to 6.250 in 3 epochs; best on validation after epoch 2: NDCG@10 0.120, "
        "Recall@100 0.600 (n = 943 requests)"
    )
    refit = FOLD[["epoch", "steps", "train/epoch_loss", "learning_rate"]]
    assert finding(refit, name="refit", best_epoch=3, num_requests=0).endswith("as many as were best for the fold")


def test_the_figure_has_a_panel_for_the_loss_and_for_each_metric_with_its_unit() -> None:
    axes = curves_figure(FOLD, name="fold", best_epoch=2, num_requests=943).axes
    assert [each.get_ylabel() for each in axes] == [
        "training loss in nats, mean of an epoch",
        "NDCG@10 on validation",
        "Recall@100 on validation",
    ]
    assert axes[1].lines[0].get_ydata().tolist() == [0.1, 0.12, 0.11]
    assert [list(each.lines[1].get_xdata()) for each in axes] == [[2, 2]] * 3


def test_rows_hold_the_mean_loss_of_their_steps_and_survive_a_checkpoint(tmp_path: Path) -> None:
    logged: list[dict[str, float]] = []
    trainer = SimpleNamespace(
        current_epoch=0,
        global_step=2,
        is_global_zero=True,
        callback_metrics={"validation/ndcg@10": torch.tensor(0.5), "train/loss": torch.tensor(9.0)},
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])],
        loggers=[SimpleNamespace(log_metrics=lambda metrics, step: logged.append({**metrics, "step": step}))],
    )
    curves = Curves(tmp_path)
    for place, losses in enumerate([(1.0, 2.0), (4.0, 5.0)]):
        trainer.current_epoch = place
        curves.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
        for loss in losses:
            curves.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)  # type: ignore[arg-type]
        curves.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        if place == 0:
            resumed = Curves(tmp_path)
            resumed.load_state_dict(curves.state_dict())
            curves = resumed
    assert logged == [{"train/epoch_loss": 1.5, "step": 2}, {"train/epoch_loss": 4.5, "step": 2}]
    table = pd.read_csv(tmp_path / "curves.csv")
    assert table["epoch"].tolist() == [1, 2]
    assert table["train/epoch_loss"].tolist() == [1.5, 4.5]
    assert list(table) == ["epoch", "steps", "train/epoch_loss", "learning_rate", "validation/ndcg@10"]


def test_the_report_of_a_directory_is_a_figure_and_a_page_with_every_epoch(tmp_path: Path) -> None:
    for cut in ("fold", "refit"):
        (tmp_path / cut / "curves").mkdir(parents=True)
        FOLD.to_csv(tmp_path / cut / "curves" / "curves.csv", index=False)
        write_curves(tmp_path / cut / "curves", name=cut, best_epoch=2, num_requests=943)
        assert matplotlib.image.imread(tmp_path / cut / "curves" / "curves.png").size > 10_000
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / cut / "curves" / "curves.csv"), FOLD)
    write_report(tmp_path, cuts=["fold", "refit"], facts={"dataset_fingerprint": "f00d"})
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert lines[0].split() == ["dataset_fingerprint", "f00d"]
    assert sum(line.split()[:2] == ["3", "30"] for line in lines) == 2
