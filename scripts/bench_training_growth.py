"""Measure a training step's time and memory as the catalogue and the histories grow.

python scripts/bench_training_growth.py [turns=3] [points.sampled_softmax.num_items=[1000,10000]]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import plain
from omegaconf import DictConfig

from evaluation.plots import save_plot
from lifecycle.entry import plain_errors
from lifecycle.training_growth import Growth, Point, finding, growth_figure


def run(cfg: DictConfig) -> None:
    out_dir, content = Path(cfg.out_dir).absolute(), plain(cfg, ("points", "command"))
    growth = Growth(
        command=content["command"],
        warm_up=cfg.warm_up,
        turns=cfg.turns,
        num_threads=cfg.num_threads,
        out_dir=out_dir,
    )
    rows = []
    for loss, grown in content["points"].items():
        for grows, values in grown.items():
            for value in values:
                for row in growth.measured(Point(grows=grows, value=int(value), loss=loss)):
                    rows.append(row)
                    print(", ".join(f"{name} {found}" for name, found in row.items()), flush=True)
    table = pd.DataFrame(rows)
    save_plot(growth_figure(table, finding=finding(table)), table=table, path=out_dir / "training_growth.png")
    print(finding(table))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_training_growth")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
