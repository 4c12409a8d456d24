"""Train the rankers on out-of-fold candidates: gradient boosting, the BERT teacher, the student distilled from it.

python scripts/train_ranker.py [experiment=teacher_long] [ranker/student=small_bert]
"""

from pathlib import Path

import hydra
from composed import plain
from composed_steps import ranker_training_of
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.steps import Step

SOURCES = (
    *("features", "ranking", "lifecycle/train_ranker.py", "lifecycle/candidates.py", "lifecycle/cuts.py"),
    "lifecycle/list_weights.py",
    *("serving/candidates.py", "serving/retrieval.py", "serving/models.py", "towers/index", "towers/retrievers"),
)
SETTINGS = ("dataset", "features", "ranker", "trainer", "seed")


def run(cfg: DictConfig) -> None:
    Step(
        name="train_ranker",
        directory=Path(cfg.ranker_dir),
        config=plain(cfg, SETTINGS),
        inputs=[Path(cfg.data_dir), Path(cfg.towers_dir), Path(cfg.index_dir)],
        sources=SOURCES,
    ).run(lambda directory: ranker_training_of(cfg).run(directory))


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_ranker")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
