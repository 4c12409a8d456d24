"""Measure what changes of an index cost and what they do to recall, by type of index.

python scripts/bench_index_changes.py [bench.num_items=100000] [bench.churn=0.1] [bench.tail=0.6]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build
from omegaconf import DictConfig

from lifecycle.bench_index_changes import IndexChangesBench
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    bench: IndexChangesBench = build(cfg.bench)
    out_dir, rows = Path(cfg.out_dir), []
    out_dir.mkdir(parents=True, exist_ok=True)
    for row in bench.rows():
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        pd.DataFrame(rows).to_csv(out_dir / "index_changes.csv", index=False)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_index_changes")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
