"""Make the example search collection: films as documents, made known-item queries, in the BEIR layout.

python scripts/make_film_search.py [out_dir=outputs/film_search] [num_queries=6000] [seed=1]
"""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig

from features.sources.film_search import write_film_search
from lifecycle.entry import plain_errors

logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="make_film_search")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        counts = write_film_search(Path(cfg.out_dir), num_queries=cfg.num_queries, seed=cfg.seed)
        logger.info("%s: %s", cfg.out_dir, ", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
