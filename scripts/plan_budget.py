"""Which ranker, and how many candidates, fit a budget on this machine; bench_ranker.py says what each is worth.

python scripts/plan_budget.py latency_ms=30 [run_dir=outputs/demo]
"""

from pathlib import Path

import hydra
from composed import dataset_of, plain
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.plan_budget import BudgetPlan
from serving.settings import PipelineSettings, build_settings


def run(cfg: DictConfig) -> None:
    plan = BudgetPlan(
        bench_dir=Path(cfg.bench_dir),
        release_dir=Path(cfg.release_dir),
        settings=build_settings(PipelineSettings, plain(cfg, ["serving"])["serving"]["pipeline"]),
        dataset=dataset_of(cfg),
    )
    print(plan.page(latency_ms=cfg.latency_ms, num_shown=cfg.num_shown))


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan_budget")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
