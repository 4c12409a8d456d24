"""The job of a refresh tick: python scripts/refresh.py [until_at_ms=INSTANT] [release_dir=...] [store_dir=...].

New item aggregates become a delta beside the release, new events newer states in the online store; running servers take
up both. Running it again for the same tick writes nothing.
"""

import logging
from pathlib import Path

import hydra
from composed import dataset_of
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.refresh import refresh

logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="refresh")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        done = refresh(
            dataset=dataset_of(cfg),
            data_dir=Path(cfg.data_dir),
            release_dir=Path(cfg.release_dir),
            store_dir=Path(cfg.store_dir),
            until_at_ms=cfg.until_at_ms,
        )
        logger.info(
            "delta %d (%s), aggregates as of %d ms; newer states of %d queries",
            done.delta,
            "new" if done.is_new_delta else "nothing new",
            done.tick_at_ms,
            done.num_queries,
        )


if __name__ == "__main__":
    main()
