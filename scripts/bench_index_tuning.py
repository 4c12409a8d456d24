"""Measure the tuner of an index beside a sweep over every type, setting and effort, on made-up embeddings.

python scripts/bench_index_tuning.py [bench.num_items=100000] [bench.tail=0.6] [bench.goals.recall=0.95]
"""

from pathlib import Path

import hydra
from composed import build
from omegaconf import DictConfig

from lifecycle.bench_index_tuning import IndexTuningBench
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    bench: IndexTuningBench = build(cfg.bench)
    table, points = bench.run()
    out_dir = Path(cfg.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    table.to_csv(out_dir / "index_tuning.csv", index=False)
    points.to_csv(out_dir / "points.csv", index=False)
    print(table.T.to_string())


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_index_tuning")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
