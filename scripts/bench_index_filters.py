"""Measure recall and time of a query under filters, by type of index, beside exact search by a bitmap.

python scripts/bench_index_filters.py [bench.num_items=[1000000]] [bench.tables=outputs/groceries/data/tables]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build
from omegaconf import DictConfig

from lifecycle.bench_index_filters import IndexFiltersBench
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    bench: IndexFiltersBench = build(cfg.bench)
    out_dir, rows = Path(cfg.out_dir), []
    out_dir.mkdir(parents=True, exist_ok=True)
    for row in bench.rows():
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        pd.DataFrame(rows).to_csv(out_dir / "index_filters.csv", index=False)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_index_filters")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
