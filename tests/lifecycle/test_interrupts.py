import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lifecycle.interrupts import interruptible

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


class Line(pl.LightningModule):
    """y = ax, to whom something happens at its first batch."""

    def __init__(self, happens: object) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.happens = happens

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.happens == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        if isinstance(self.happens, BaseException):
            raise self.happens
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def own_ctrl_c() -> Iterator[None]:
    """Lightning ignores further signals once it shuts down; the next test must not."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def train(happens: object, tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
    )
    with interruptible(trainer):
        trainer.fit(Line(happens), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2))


def test_ctrl_c_while_training_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("Ctrl-C", tmp_path)


def test_other_ends_stay_what_they_are(tmp_path: Path) -> None:
    train(None, tmp_path)
    with pytest.raises(ZeroDivisionError):
        train(ZeroDivisionError(), tmp_path)


def test_an_exit_that_nobody_interrupted_stays_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), interruptible(pl.Trainer(accelerator="cpu", logger=False)):
        raise SystemExit(3)
