"""Measure what types of index cost as the number of items grows, on made-up embeddings.

python scripts/bench_index_scale.py [bench.sizes.hnsw=[10000]] [bench.sizes.ivf_sq8=[1000000,10000000]]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build
from omegaconf import DictConfig

from evaluation.plots import save_plot
from lifecycle.bench_index_scale import IndexScaleBench, finding, scale_figure
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    bench: IndexScaleBench = build(cfg.bench)
    rows = []
    for row in bench.rows():
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        table = pd.DataFrame(rows)  # written after each, for the largest take long
        save_plot(scale_figure(table, finding=finding(table)), table=table, path=Path(cfg.out_dir) / "index_scale.png")
    print(finding(table))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_index_scale")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
