"""The main job: from raw logs to recommendations out of a real Triton server.

python scripts/run_pipeline.py [run_dir=outputs/demo] [until=evaluate] [experiment=NAME] [towers.width=32]

Steps whose inputs did not change are skipped; a run that was killed goes on where it was. Several jobs (-m) need a
run_dir each: run_dir='outputs/sweep/${hydra:job.override_dirname}'.
"""

import logging

import build_index
import demo_requests
import evaluate
import export_release
import hydra
import prepare_data
import train_ranker
import train_towers
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.steps import MissingInput

logger = logging.getLogger(__name__)

STEPS = (prepare_data, train_towers, build_index, train_ranker, evaluate, export_release, demo_requests)


@hydra.main(version_base="1.3", config_path="../conf", config_name="run_pipeline")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        names = [step.__name__ for step in STEPS]
        if cfg.until not in names:
            raise MissingInput(f"until: expected one of {', '.join(names)}; got {cfg.until!r}")
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN and not any(own.startswith("run_dir=") for own in job.overrides.task):
            raise ValueError(
                f"run_dir: expected one for each job of -m; got {cfg.run_dir} for all. Set "
                "run_dir='outputs/sweep/${hydra:job.num}', and data_dir=outputs/demo/data to prepare data once"
            )
        for number, step in enumerate(STEPS[: names.index(cfg.until) + 1], start=1):
            logger.info("--- %d of %d: %s", number, len(STEPS), (step.__doc__ or "").splitlines()[0])
            step.run(cfg)


if __name__ == "__main__":
    main()
