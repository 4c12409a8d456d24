"""Measure cold start: hold items out of training, rank them by their content, once for each draw of the items.

python scripts/bench_cold_items.py [draws=[1,2,3]] [share=0.1] [towers.id_dropout=0.1]
"""

import shutil
from pathlib import Path

import hydra
import numpy as np
import prepare_data
from composed import dataset_of, protocol_of
from omegaconf import DictConfig
from train_towers import training_of

from lifecycle.cold_items import ColdItems, cold_table, pooled
from lifecycle.cuts import FOLD
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    prepare_data.run(cfg)
    dataset, out_dir = dataset_of(cfg), Path(cfg.out_dir)
    measured = []
    for draw in cfg.draws:
        items = ColdItems.draw(
            dataset,
            protocol_of(cfg),
            share=cfg.share,
            min_queries=cfg.min_queries,
            generator=np.random.default_rng(draw),
        )
        towers_dir = out_dir / f"draw_{draw}"
        shutil.rmtree(towers_dir, ignore_errors=True)  # of other settings, perhaps
        training_of(cfg, items.known).train(FOLD, towers_dir / FOLD.name)
        measured.append(items.measure(towers_dir, generator=np.random.default_rng(cfg.seed)))
    table = cold_table({name: pooled([own[name] for own in measured]) for name in measured[0]}, seed=cfg.seed)
    (out_dir / "cold_items.txt").write_text(table + "\n")
    print(table)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_cold_items")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
