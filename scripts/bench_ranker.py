"""Rankers side by side on one run's candidates: quality against processor time -> frontier.csv and frontier.png.

python scripts/bench_ranker.py [run_dir=outputs/demo] [students=[decomposed,small_bert]]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build
from composed_steps import ranker_training_of
from hydra import compose
from omegaconf import DictConfig

from evaluation.frontier import frontier_figure
from evaluation.plots import save_plot
from lifecycle.bench_ranker import RankerBench
from lifecycle.candidates import StageOne
from lifecycle.cuts import REFIT
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    directories = {"towers_dir": Path(cfg.towers_dir), "index_dir": Path(cfg.index_dir)}
    bench = RankerBench(
        training=ranker_training_of(cfg),
        recipes={
            name: build(compose("bench_ranker", overrides=[f"ranker/student={name}"]).ranker.student)
            for name in cfg.students
        },
        ranker_dir=Path(cfg.ranker_dir),
        refit=StageOne.open(REFIT, **directories),
        towers_dir=directories["towers_dir"],
        num_timed=tuple(cfg.num_timed),
        num_reordered=tuple(cfg.num_reordered),
        seed=cfg.seed,
    )
    out_dir, rows = Path(cfg.out_dir), []
    out_dir.mkdir(parents=True, exist_ok=True)
    for row in bench.rows(out_dir):
        rows.append(row)
        pd.DataFrame(rows).to_csv(out_dir / "frontier.csv", index=False)
    table = pd.DataFrame(rows)
    save_plot(frontier_figure(table, num=cfg.ranker.num_ranked), table=table, path=out_dir / "frontier.png")
    print(table.to_string(index=False, float_format="%.4f"))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_ranker")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
