"""Train the two towers: fold with early stopping, then the refit that is released.

python scripts/train_towers.py [experiment=NAME] [towers.width=128] [-m seed=1,2,3]
"""

from pathlib import Path
from typing import Any

import hydra
from composed import build, columns_of, dataset_of, plain, protocol_of, spec_of
from omegaconf import DictConfig

from features.dataset import Dataset
from lifecycle.entry import plain_errors
from lifecycle.steps import Step, read_step
from lifecycle.tracking import RunFacts
from lifecycle.train_towers import TowersTraining

SETTINGS = ("dataset", "towers", "text", "loss", "negatives", "trainer", "optimisation", "seed")
FEATURES = ("columns", "text", "encoder")  # where features are served from changes no model
SOURCES = (
    *("features", "towers", "lifecycle/train_towers.py", "lifecycle/training_tables.py", "lifecycle/cuts.py"),
    "serving/candidates.py",
    "serving/retrieval.py",
)


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """All that change the result."""
    return {**plain(cfg, SETTINGS), "features": plain(cfg.features, FEATURES)}


def training_of(cfg: DictConfig, dataset: Dataset | None = None) -> TowersTraining:
    """What the config says, on the prepared log or another one, which is read last: wrong settings are found before."""
    return TowersTraining(
        protocol=protocol_of(cfg),
        columns=columns_of(cfg),
        spec=spec_of(cfg),
        text_encoder=build(cfg.features.encoder),
        build_model=build(cfg.towers),
        text=build(cfg.text) if cfg.text else None,
        loss=build(cfg.loss),
        negatives=build(cfg.negatives),
        optimisation=build(cfg.optimisation),
        build_trainer=build(cfg.trainer),
        build_logger=build(cfg.logger) if cfg.logger else None,
        facts=RunFacts(settings_of(cfg), {"dataset_fingerprint": read_step(Path(cfg.data_dir))["fingerprint"]}),
        dataset=dataset_of(cfg) if dataset is None else dataset,
    )


def run(cfg: DictConfig) -> None:
    Step(
        name="train_towers",
        directory=Path(cfg.towers_dir),
        config=settings_of(cfg),
        inputs=[Path(cfg.data_dir)],
        sources=SOURCES,
    ).run(lambda directory: training_of(cfg).run(directory))


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_towers")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
