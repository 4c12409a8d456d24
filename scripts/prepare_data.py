"""Prepare a dataset: raw files -> validated, split, point-in-time tables, and a page about them.

python scripts/prepare_data.py [dataset=movielens100k] [data_dir=DIR] [data_report=false] [etl.engine=spark]
"""

from pathlib import Path

import hydra
from composed import build, columns_of, engine_of, file_stamps, plain
from omegaconf import DictConfig

from features.prepare import prepare
from lifecycle.data_report.write import write_data_report
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
            engine=engine_of(cfg),
        )
        if cfg.data_report:
            write_data_report(directory, columns=columns_of(cfg))

    Step(
        name="prepare_data",
        directory=Path(cfg.data_dir),
        config={
            **plain(cfg, ["dataset", "data_report"]),
            **plain(cfg.features, ["columns"]),
            "etl": cfg.etl.engine,
            "files": file_stamps(cfg.dataset.source),
        },
        inputs=[],
        sources=["features", "lifecycle/data_report", "evaluation/drift.py"],
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare_data")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
