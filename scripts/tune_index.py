"""Choose the fastest index within latency, memory and recall, by the catalogue's embeddings and held-out queries.

python scripts/tune_index.py recall=0.95 k=100 latency_ms=3 memory_gb=2 [run_dir=outputs/demo] [tuning_dir=DIR]
    [scann=true]

Then scripts/build_index.py index_choice=outputs/demo/index_tuning, or the same for scripts/run_pipeline.py.
"""

from pathlib import Path

import hydra
from composed import build, dataset_of, protocol_of
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.steps import checked_step
from lifecycle.tune_index import IndexTuning


def run(cfg: DictConfig) -> None:
    checked_step(Path(cfg.index_dir))
    tuning = IndexTuning(
        dataset=dataset_of(cfg),
        protocol=protocol_of(cfg),
        towers_dir=Path(cfg.towers_dir),
        index_dir=Path(cfg.index_dir),
        goals=build(cfg.goals),
        max_queries=cfg.max_queries,
        forecast_factor=cfg.forecast_factor,
        seed=cfg.seed,
    )
    print(tuning.run(Path(cfg.tuning_dir)))


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune_index")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
