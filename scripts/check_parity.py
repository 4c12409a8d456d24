"""Prove that offline and online agree; exits with 1 and names the features where they do not.

python scripts/check_parity.py served_log=outputs/demo/serving/served.jsonl    what was served, made again
python scripts/check_parity.py [events=100000]                                 events of the log through both paths
"""

import logging
from pathlib import Path

import hydra
from composed import dataset_of, plain
from omegaconf import DictConfig

from lifecycle.cuts import REFIT
from lifecycle.entry import plain_errors
from lifecycle.parity import replay_events
from lifecycle.served_parity import check_served_log
from serving.retrieval import Stage1
from serving.served_log import read_served_log
from serving.settings import PipelineSettings, build_settings

logger = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    dataset, release_dir = dataset_of(cfg), Path(cfg.release_dir)
    if cfg.served_log is not None:
        served = check_served_log(
            read_served_log(Path(cfg.served_log)),
            release_dir=release_dir,
            settings=build_settings(PipelineSettings, plain(cfg, ["serving"])["serving"]["pipeline"]),
            dataset=dataset,
            score_tolerance=cfg.score_tolerance,
        )
        logger.info("parity of what was served, %s\n%s", cfg.served_log, served)
        served.check()
        return
    replayed = replay_events(
        cfg.events,
        dataset=dataset,
        data_dir=Path(cfg.data_dir),
        offline=Stage1.read(Path(cfg.towers_dir) / REFIT.name, index_path=Path(cfg.index_dir) / f"{REFIT.name}.faiss"),
        release_dir=release_dir,
        seed=cfg.seed,
    )
    logger.info("parity of the replay\n%s", replayed)
    replayed.check(float_tolerance=0.0)


@hydra.main(version_base="1.3", config_path="../conf", config_name="check_parity")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
