from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file

from towers.data import TowerData
from towers.errors import LossNotFinite
from towers.loss_guard import LossGuard
from towers.training_batch import TrainingBatch

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # nothing to validate on
]


class Recorder(Callback):
    """Keeps the batches, and how many optimizer steps had been made."""

    def __init__(self) -> None:
        self.batches: list[TrainingBatch] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: TrainingBatch, batch_idx: int) -> None:
        self.batches.append(batch)


def spoilt_data(ring: Any, module: Any, *, step: int) -> TowerData:
    """Four batches of an epoch, one number of which is none in the batch of this step (from 1)."""
    calls = 0

    def make_batch(windows: Any) -> TrainingBatch:
        nonlocal calls
        calls += 1
        if calls == step:
            windows[6][3] = float("nan")
        batch: TrainingBatch = module.make_batch(windows)
        return batch

    data: TowerData = ring.data(module=module)
    data.make_batch = make_batch
    return data


def stopped(ring: Any, folder: Path, *, step: int, every_n_steps: int, checkpoints: bool = False) -> tuple[str, Any]:
    """What was said, and the batches that were begun."""
    recorder = Recorder()
    module = ring.module(ring.model(seed=1))
    guard = LossGuard(every_n_steps=every_n_steps, save_to=folder / "broken_batch_fold")
    keep = [ModelCheckpoint(dirpath=folder, save_last=True)] if checkpoints else []
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpoints,
        callbacks=[guard, recorder, *keep],
    )
    with pytest.raises(LossNotFinite) as found:
        trainer.fit(module, datamodule=spoilt_data(ring, module, step=step))
    return str(found.value), recorder.batches


@pytest.mark.parametrize(
    ("step", "every_n_steps", "looked_at"),
    [
        (2, 1, 2),  # in the step itself
        (2, 3, 3),  # at the next look
        (3, 100, 4),  # at the end of the epoch
        (4, 2, 4),
        (5, 2, 6),  # in the second epoch
    ],
)
def test_a_loss_that_is_no_number_stops_training_at_the_next_look(ring, tmp_path, step, every_n_steps, looked_at):
    message, batches = stopped(ring, tmp_path, step=step, every_n_steps=every_n_steps)
    assert len(batches) == looked_at
    path = tmp_path / "broken_batch_fold.safetensors"
    assert message.startswith(f"the loss of step {step} is nan; its batch, and the one before, whose gradient may have")
    assert str(path) in message
    assert "optimisation.learning_rate" in message
    saved = load_file(path)
    for prefix, place in (("batch", step - 1), ("batch_before", step - 2)):
        for name in ("history_rows", "rows", "target_rows", "own_rows"):
            assert torch.equal(saved[f"{prefix}.{name}"], getattr(batches[place], name))
    # what the query tower reads ends with categories, numbers and text; the number that is none is there to be found
    assert saved["batch.query.5"].isnan().any(dim=1).nonzero().tolist() == [[3]]
    assert saved["batch_before.query.5"].isfinite().all()


def test_before_the_first_batch_there_was_none(ring, tmp_path):
    stopped(ring, tmp_path, step=1, every_n_steps=1)
    saved = load_file(tmp_path / "broken_batch_fold.safetensors")
    assert {name.split(".")[0] for name in saved} == {"batch"}


def test_weights_that_are_no_numbers_are_not_saved(ring, tmp_path):
    stopped(ring, tmp_path, step=3, every_n_steps=100, checkpoints=True)
    assert not list(tmp_path.glob("*.ckpt"))


def test_an_infinite_loss_is_named_and_a_finite_one_lets_training_go_on(ring, tmp_path):
    guard = LossGuard(every_n_steps=2, save_to=tmp_path / "broken")
    module = ring.module(ring.model(seed=1))
    batch = next(iter(ring.data(module=module).train_dataloader()))
    trainer: Any = type("Trainer", (), {"is_last_batch": False, "global_step": 2, "world_size": 2, "global_rank": 1})()
    for loss in (1.0, 2.0, 3.0):
        guard.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, batch, 0)
    trainer.global_step = 4
    with pytest.raises(LossNotFinite, match=r"the loss of step 4 is inf; .* are in .*/broken_rank1\.safetensors:"):
        guard.on_train_batch_end(trainer, module, {"loss": torch.tensor(float("inf"))}, batch, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["broken_rank1.safetensors"]
