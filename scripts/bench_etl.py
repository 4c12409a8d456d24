"""Measure a preparation's time and memory as its log grows, beside a peer's preparation of the same files.

python scripts/bench_etl.py [copies=[0.1,1,10]] [runs=3] [recbole_python=PATH]
"""

import shutil
from pathlib import Path

import hydra
import pandas as pd
from composed import build
from omegaconf import DictConfig

from evaluation.plots import save_plot
from lifecycle.bench_etl import Plan
from lifecycle.entry import plain_errors
from lifecycle.growth import growth_figure, judge
from lifecycle.replicated_log import replicate


def run(cfg: DictConfig) -> bool:
    out_dir, rows = Path(cfg.out_dir).absolute(), []
    plan = Plan(
        systems={name: list(command) for name, command in cfg.systems.items() if command[0] is not None},
        runs=cfg.runs,
        most_events=dict(cfg.most_events),
        timeout_s=cfg.timeout_s,
        memory_bytes=int(cfg.memory_gb * 1e9),
        out_dir=out_dir,
    )
    raw = build(cfg.dataset.source).read()
    for copies in cfg.copies:
        folder = out_dir / "logs" / f"copies_{copies}".replace(".", "_")
        for found in plan.measured(replicate(raw, copies=copies, seed=cfg.seed, folder=folder)):
            rows.append(found)
            print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
            pd.DataFrame(rows).to_csv(out_dir / "runs.csv", index=False)
        shutil.rmtree(folder)
    table = pd.DataFrame(rows)
    judged = judge(table, system=next(iter(plan.systems)), linear_ratio=cfg.linear_ratio)
    print(judged.finding)
    save_plot(growth_figure(table, finding=judged.finding), table=table, path=out_dir / "preparation.png")
    return judged.is_linear


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_etl")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        if not run(cfg):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
