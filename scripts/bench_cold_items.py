"""Measure cold start: hold items out of training, rank them by their content, once for each draw of the items.

python scripts/bench_cold_items.py [draws=[1,2,3]] [share=0.1] [blend.new_items=0.6] [keep_towers=true]
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import prepare_data
from build_index import index_step
from composed import dataset_of, protocol_of
from omegaconf import DictConfig
from train_towers import training_of

from features.dataset import Dataset
from lifecycle.candidates import StageOne
from lifecycle.cold_items import ColdItems, cold_table, pooled, shelf_table
from lifecycle.cuts import FOLD
from lifecycle.entry import plain_errors


def fold_of(
    cfg: DictConfig, dataset: Dataset, directory: Path, *, prepare: Callable[[Path], None] = lambda _: None
) -> StageOne:
    """Towers trained and indexed on the fold of a log; `prepare` sees them in between."""
    if not (cfg.keep_towers and directory.is_dir()):
        shutil.rmtree(directory, ignore_errors=True)  # of other settings, perhaps
        training_of(cfg, dataset).train(FOLD, directory / FOLD.name)
    prepare(directory)
    index_dir = directory / "index"
    index_dir.mkdir(exist_ok=True)
    index_step(cfg, dataset, towers_dir=directory, cuts=(FOLD,)).run(index_dir)
    return StageOne.open(FOLD, towers_dir=directory, index_dir=index_dir)


def run(cfg: DictConfig) -> None:
    prepare_data.run(cfg)
    dataset, out_dir = dataset_of(cfg), Path(cfg.out_dir)
    informed = fold_of(cfg, dataset, out_dir / "whole")
    measured, shelves = [], []
    for draw in cfg.draws:
        items = ColdItems.draw(
            dataset,
            protocol_of(cfg),
            share=cfg.share,
            min_queries=cfg.min_queries,
            generator=np.random.default_rng(draw),
        )
        stage_one = fold_of(cfg, items.known, out_dir / f"draw_{draw}", prepare=items.recommend_all)
        full, shelf = items.measure(stage_one, informed=informed, generator=np.random.default_rng(cfg.seed))
        measured.append(full)
        shelves.append(shelf)
    tables = (
        cold_table({name: pooled([own[name] for own in measured]) for name in measured[0]}, seed=cfg.seed),
        shelf_table({name: np.concatenate([own[name] for own in shelves]) for name in shelves[0]}, seed=cfg.seed),
    )
    table = "\n\n".join(tables)
    (out_dir / "cold_items.txt").write_text(table + "\n")
    print(table)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_cold_items")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
