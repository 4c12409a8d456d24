"""Build the index over the item embeddings of each cut.

python scripts/build_index.py [index=hnsw] [towers_dir=DIR]
"""

from pathlib import Path

import hydra
from composed import build, plain
from omegaconf import DictConfig

from lifecycle.build_index import build_indexes
from lifecycle.entry import plain_errors
from lifecycle.steps import Step


def run(cfg: DictConfig) -> None:
    def work(directory: Path) -> None:
        build_indexes(towers_dir=Path(cfg.towers_dir), builder=build(cfg.index), out_dir=directory)

    Step(
        name="build_index",
        directory=Path(cfg.index_dir),
        config=plain(cfg, ["index"]),
        inputs=[Path(cfg.towers_dir)],
        sources=("towers/index", "lifecycle/build_index.py"),
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_index")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
