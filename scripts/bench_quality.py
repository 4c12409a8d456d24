"""Measure every system under several seeds: the main job up to its evaluation, once a seed.

python scripts/bench_quality.py [seeds=[1,2,3]]
"""

import subprocess
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from evaluation.report import read_report
from lifecycle.entry import plain_errors
from lifecycle.seeds import seeds_table

PIPELINE = Path(__file__).with_name("run_pipeline.py")


def run(cfg: DictConfig) -> None:
    reports = []
    for seed in cfg.seeds:
        run_dir = Path(cfg.out_dir) / f"seed_{seed}"
        subprocess.run(
            [sys.executable, str(PIPELINE), "until=evaluate", f"seed={seed}", f"run_dir={run_dir}", *cfg.overrides],
            check=True,
        )
        reports.append(read_report(run_dir / "evaluation" / "report.json"))
    table = seeds_table(reports, metrics=("ndcg@10", "recall@10", "recall@100"))
    (Path(cfg.out_dir) / "seeds.txt").write_text(table + "\n")
    print(table)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_quality")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
