"""The student with each loss of its distillation, by lists of validation -> distillation.csv.

python scripts/bench_distillation.py [run_dir=outputs/demo] [ranker/student=small_bert] [test_of=kl]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build
from composed_steps import ranker_training_of
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lifecycle.bench_distillation import DistillationBench
from lifecycle.candidates import StageOne
from lifecycle.cuts import REFIT
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    if cfg.test_of not in (None, *cfg.distillations):
        raise ValueError(f"test_of: expected one of {', '.join(cfg.distillations)}, or null; got {cfg.test_of!r}")
    directories = {"towers_dir": Path(cfg.towers_dir), "index_dir": Path(cfg.index_dir)}
    given = HydraConfig.get().overrides.task
    bench = DistillationBench(
        training=ranker_training_of(cfg),
        recipes={
            name: build(compose("bench_distillation", overrides=[*given, *own]).ranker.student)
            for name, own in cfg.distillations.items()
        },
        ranker_dir=Path(cfg.ranker_dir),
        seeds=tuple(cfg.seeds),
        num_agreed=cfg.num_agreed,
    )
    out_dir = Path(cfg.out_dir)
    rows = bench.rows(out_dir)
    if cfg.test_of is not None:
        rows += bench.test_rows(cfg.test_of, StageOne.open(REFIT, **directories), out_dir)
    table = pd.DataFrame(rows)
    table.to_csv(out_dir / "distillation.csv", index=False)
    print(table.sort_values("measure", kind="stable").to_string(index=False, float_format="%.4f"))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_distillation")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
