"""Measure how soon added and deleted items are acknowledged, and known to another server of the same release.

python scripts/bench_item_changes.py [sizes=[1,32]] [rounds=50]
"""

from pathlib import Path

import hydra
from composed import dataset_of
from omegaconf import DictConfig

from features.stores.online_store import OnlineStore
from lifecycle.ask import held_out_asks
from lifecycle.bench_item_changes import ItemChangesBench, summarised
from lifecycle.entry import plain_errors
from lifecycle.serve import serve_settings


def run(cfg: DictConfig) -> None:
    store, out_dir = OnlineStore.open(Path(cfg.store_dir)), Path(cfg.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    asks = held_out_asks(dataset_of(cfg))[: cfg.requests]
    requests = [store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])[0] for ask in asks]
    bench = ItemChangesBench(settings=serve_settings(cfg.serving).triton, sizes=list(cfg.sizes), rounds=cfg.rounds)
    changes = bench.run(requests, release_dir=Path(cfg.release_dir), spec_hash=store.spec_hash, out_dir=out_dir)
    changes.to_csv(out_dir / "changes.csv", index=False)
    print(summarised(changes).to_string(index=False))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_item_changes")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
