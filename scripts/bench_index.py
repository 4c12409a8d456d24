"""Measure our tuned index beside exact search, hnswlib, usearch, voyager and ScaNN: recall, and time of one query.

python scripts/bench_index.py [peers_python=PATH] [bench.vectors.purchases.events=PATH] [~bench.vectors.heavy_tail]
"""

from pathlib import Path

import hydra
from composed import build
from omegaconf import DictConfig

from lifecycle.bench_index import IndexBench, peers_environment
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    out_dir = Path(cfg.out_dir).absolute()
    bench: IndexBench = build(cfg.bench)
    python = Path(cfg.peers_python) if cfg.peers_python else peers_environment(Path(cfg.peers_dir).absolute())
    points, fastest = bench.run(out_dir, peers_python=python)
    points.to_csv(out_dir / "points.csv", index=False)
    fastest.to_csv(out_dir / "fastest.csv", index=False)
    shown = fastest[["vectors", "target", "search", "speed_up", "speed_low", "speed_high", "recall", "ms", "said"]]
    print(shown.to_string(index=False, float_format="{:.4g}".format))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_index")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
