"""Measure the served release over gRPC in a closed loop, for both ways to run the models.

python scripts/bench_serving.py [clients=[1,4]] [requests=400]
"""

import dataclasses
import json
from pathlib import Path

import hydra
import numpy as np
from composed import dataset_of
from omegaconf import DictConfig

from features.stores.online_store import OnlineStore
from lifecycle.ask import held_out_asks
from lifecycle.entry import plain_errors
from lifecycle.load import closed_loop
from lifecycle.serve import serve_settings
from serving.model_repository import build_model_repository
from serving.triton import TritonServer


def run(cfg: DictConfig) -> None:
    store, out_dir = OnlineStore.open(Path(cfg.store_dir)), Path(cfg.out_dir)
    asks = held_out_asks(dataset_of(cfg))
    chosen = np.random.default_rng(cfg.seed).permutation(len(asks))[: cfg.requests]
    requests = [store.read([asks[n].query_id], requested_at_ms=[asks[n].requested_at_ms])[0] for n in chosen]
    rows = []
    print(f"{'models':<12}{'clients':>8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for models in ("inprocess", "bls"):
        settings = dataclasses.replace(serve_settings(cfg.serving).triton, models=models)
        repository = out_dir / models / "repository"
        repository.parent.mkdir(parents=True, exist_ok=True)
        build_model_repository(release_dir=Path(cfg.release_dir), repository_dir=repository, settings=settings)
        with TritonServer(settings=settings, repository_dir=repository, work_dir=out_dir / models) as triton:
            for clients in cfg.clients:
                found = closed_loop(
                    requests, address=triton.grpc_address, spec_hash=store.spec_hash, clients=clients, k=10
                )
                rows.append({"models": models, **dataclasses.asdict(found)})
                print(
                    f"{models:<12}{clients:>8}{found.requests_per_s:>12.1f}{found.p50_ms:>9.1f}{found.p99_ms:>9.1f}",
                    flush=True,
                )
    (out_dir / "serving.json").write_text(json.dumps(rows, indent=2))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_serving")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
