"""Prepare a dataset: raw files -> validated, split, point-in-time tables.

python scripts/prepare_data.py [dataset=movielens100k] [data_dir=DIR]
"""

from pathlib import Path

import hydra
from composed import build, plain
from omegaconf import DictConfig

from features.prepare import prepare
from lifecycle.entry import plain_errors
from lifecycle.steps import Step


def run(cfg: DictConfig) -> None:
    def work(directory: Path) -> None:
        prepare(
            source=build(cfg.dataset.source),
            labels=build(cfg.dataset.labels),
            split=build(cfg.dataset.split),
            out_dir=directory / "tables",
            name=cfg.dataset.name,
        )

    Step(
        name="prepare_data",
        directory=Path(cfg.data_dir),
        config=plain(cfg, ["dataset"]),
        inputs=[],
        sources=["features"],
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare_data")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
