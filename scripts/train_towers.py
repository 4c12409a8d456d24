"""Train the two towers: fold with early stopping, then the refit that is released.

python scripts/train_towers.py [experiment=NAME] [towers.width=128] [-m seed=1,2,3]
"""

from pathlib import Path

import hydra
from composed import columns_of, dataset_of, plain
from hydra.utils import instantiate
from omegaconf import DictConfig

from features.transforms import ranker_feature_names
from lifecycle.entry import plain_errors
from lifecycle.steps import Step
from lifecycle.train_towers import TowersTraining
from serving.retrieval import RETRIEVERS

SETTINGS = ("dataset", "features", "towers", "negatives", "trainer", "optimisation", "seed")


def run(cfg: DictConfig) -> None:
    def work(directory: Path) -> None:
        columns = columns_of(cfg)
        names = ranker_feature_names(
            retrievers=RETRIEVERS, item_categories=columns.item_categories, item_numbers=columns.item_numbers
        )
        TowersTraining(
            dataset=dataset_of(cfg),
            columns=columns,
            spec=columns.spec(text=instantiate(cfg.features.text), ranker_features=names),
            text_encoder=instantiate(cfg.features.encoder),
            build_model=instantiate(cfg.towers),
            negatives=instantiate(cfg.negatives),
            optimisation=instantiate(cfg.optimisation),
            build_trainer=instantiate(cfg.trainer),
            build_logger=instantiate(cfg.logger) if cfg.logger else None,
        ).run(directory)

    Step(
        name="train_towers",
        directory=Path(cfg.towers_dir),
        config=plain(cfg, SETTINGS),
        inputs=[Path(cfg.data_dir)],
        rooms=("features", "towers"),
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_towers")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
