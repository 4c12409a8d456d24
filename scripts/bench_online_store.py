"""Measure the online store: reads of one query, and rounds of new states by each of Feast's ways to write them.

python scripts/bench_online_store.py [stores=[sqlite,redis]] [redis.port=6379]
"""

import json
from dataclasses import asdict
from pathlib import Path

import hydra
from composed import build
from omegaconf import DictConfig

from features.stores.online_settings import OnlineSettings
from lifecycle.entry import plain_errors
from lifecycle.store_costs import store_costs


def run(cfg: DictConfig) -> None:
    out_dir, rows = Path(cfg.out_dir), []
    out_dir.mkdir(parents=True, exist_ok=True)
    print(f"{'store':<8}{'what':<34}{'history':>8}{'n':>6}{'p50 ms':>10}{'p99 ms':>10}{'cpu ms':>10}")
    for kind in cfg.stores:
        for cost in store_costs(
            OnlineSettings(type=kind, redis=build(cfg.redis)),
            work_dir=out_dir,
            num_queries=cfg.queries,
            histories=cfg.histories,
            round_sizes=cfg.round_sizes,
            num_reads=cfg.reads,
            num_rounds=cfg.rounds,
        ):
            rows.append(asdict(cost))
            print(
                f"{cost.store:<8}{cost.what:<34}{cost.history:>8}{cost.n:>6}"
                f"{cost.p50_ms:>10.2f}{cost.p99_ms:>10.2f}{cost.cpu_ms:>10.2f}",
                flush=True,
            )
    (out_dir / "online_store.json").write_text(json.dumps(rows, indent=2))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_online_store")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
