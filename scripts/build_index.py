"""Build the index over the item embeddings of each cut, and fit how the retrievers are fused.

python scripts/build_index.py [index=hnsw] [retrieval.quotas.popularity=50] [towers_dir=DIR]
"""

from pathlib import Path

import hydra
from composed import build, dataset_of, plain, protocol_of
from omegaconf import DictConfig

from lifecycle.build_index import build_indexes
from lifecycle.entry import plain_errors
from lifecycle.steps import Step

SOURCES = (
    *("features", "lifecycle/build_index.py", "lifecycle/candidates.py", "lifecycle/fit_fusion.py"),
    *("serving/retrieval.py", "serving/models.py", "towers/index", "towers/retrievers"),
)


def run(cfg: DictConfig) -> None:
    towers_dir = Path(cfg.towers_dir)

    def work(directory: Path) -> None:
        build_indexes(towers_dir=towers_dir, builder=build(cfg.index), out_dir=directory)
        build(cfg.retrieval).run(
            dataset=dataset_of(cfg), protocol=protocol_of(cfg), towers_dir=towers_dir, index_dir=directory
        )

    Step(
        name="build_index",
        directory=Path(cfg.index_dir),
        config={**plain(cfg, ["index", "retrieval", "dataset"]), "features": plain(cfg.features, ["columns"])},
        inputs=[Path(cfg.data_dir), towers_dir],
        sources=SOURCES,
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_index")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
