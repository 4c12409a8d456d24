"""Start the server, ask it for three queries over gRPC and HTTP, measure it, and stop it.

python scripts/demo_requests.py [serving.mode=inprocess] [keep_serving=true]
"""

import signal
from pathlib import Path

import hydra
from composed import dataset_of
from omegaconf import DictConfig

from evaluation.latency import smallest_sample
from features.stores.online_store import OnlineStore
from lifecycle.ask import held_out_asks, measure_latency, show
from lifecycle.entry import plain_errors
from lifecycle.report import finish_report
from lifecycle.serve import serve_settings, serving
from serving.release import Release


def run(cfg: DictConfig) -> None:
    if cfg.measured_requests < smallest_sample(99.0):
        raise ValueError(
            f"measured_requests: a p99 needs at least {smallest_sample(99.0)}; got {cfg.measured_requests}"
        )
    release, store = Release.open(Path(cfg.release_dir)), OnlineStore.open(Path(cfg.store_dir))
    asks = held_out_asks(dataset_of(cfg))
    with serving(
        serve_settings(cfg.serving),
        release_dir=Path(cfg.release_dir),
        store_dir=Path(cfg.store_dir),
        work_dir=Path(cfg.work_dir),
    ) as addresses:
        by_id = {ask.query_id: ask for ask in asks}
        shown = list(by_id)[:3] if cfg.shown_queries is None else [str(query_id) for query_id in cfg.shown_queries]
        if missing := [query_id for query_id in shown if query_id not in by_id]:
            raise ValueError(f"shown_queries: {missing} have no test event")
        chosen = [by_id[query_id] for query_id in shown]
        print(show(chosen, store=store, release=release, addresses=addresses, k=10))
        latency_ms = measure_latency(asks, num_requests=cfg.measured_requests, store=store, addresses=addresses, k=10)
        print(finish_report(Path(cfg.run_dir), evaluation_dir=Path(cfg.evaluation_dir), latency_ms=latency_ms))
        if cfg.keep_serving:
            print(f"the server stays until Ctrl-C: http://{addresses.http}/v1/recommend", flush=True)
            signal.pause()


@hydra.main(version_base="1.3", config_path="../conf", config_name="demo_requests")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
