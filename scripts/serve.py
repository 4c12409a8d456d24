"""Serve a release until Ctrl-C: Triton and the gateway, or the gateway alone (serving.mode=inprocess).

python scripts/serve.py [serving.mode=inprocess] [serving.gateway.port=8080]
"""

import signal
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.serve import serve_settings, serving


def run(cfg: DictConfig) -> None:
    with serving(
        serve_settings(cfg.serving),
        release_dir=Path(cfg.release_dir),
        store_dir=Path(cfg.store_dir),
        work_dir=Path(cfg.work_dir),
    ) as addresses:
        print(f"serving; ask: .venv/bin/python scripts/recommend.py query_id=196 k=10 http={addresses.http}")
        print("Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()


@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
