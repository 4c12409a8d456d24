"""Train the rankers on out-of-fold candidates: gradient boosting, the BERT teacher, the student distilled from it.

python scripts/train_ranker.py [experiment=teacher_long] [ranker.student_sizes.num_layers=3]
"""

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from features.dataset import Dataset
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.entry import plain_errors
from lifecycle.steps import Step
from lifecycle.train_ranker import RankerTraining

SETTINGS = ("dataset", "features", "ranker", "trainer", "seed")


def run(cfg: DictConfig) -> None:
    def work(directory: Path) -> None:
        columns = instantiate(cfg.features.columns, _convert_="all")
        RankerTraining(
            dataset=Dataset.read(Path(cfg.data_dir), name=cfg.dataset.name, columns=columns),
            stage_one=StageOne.open(FOLD, towers_dir=Path(cfg.towers_dir), index_dir=Path(cfg.index_dir)),
            **instantiate(cfg.ranker),
            build_trainer=instantiate(cfg.trainer),
            seed=cfg.seed,
        ).run(directory)

    settings = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(SETTINGS)), resolve=True)
    Step(
        name="train_ranker",
        directory=Path(cfg.ranker_dir),
        config=settings,
        inputs=[Path(cfg.data_dir), Path(cfg.towers_dir), Path(cfg.index_dir)],
        rooms=("features", "ranking"),
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_ranker")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
