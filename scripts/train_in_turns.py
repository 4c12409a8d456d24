"""Train the towers in turns, beside peers; scripts/bench_training.py runs it.

python scripts/train_in_turns.py lists=PATH [turn_s=5]
"""

from pathlib import Path

import hydra
from composed import build, columns_of, dataset_of, protocol_of, spec_of
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.towers_in_turns import TowersInTurns
from lifecycle.turns import Turns


def run(cfg: DictConfig) -> None:
    TowersInTurns(
        dataset=dataset_of(cfg),
        protocol=protocol_of(cfg),
        columns=columns_of(cfg),
        spec=spec_of(cfg),
        text_encoder=build(cfg.features.encoder),
        build_model=build(cfg.towers),
        loss=build(cfg.loss),
        negatives=build(cfg.negatives),
        optimisation=build(cfg.optimisation),
        build_trainer=build(cfg.trainer),
        splits=list(cfg.splits),
        asked=cfg.asked,
    ).run(Turns(turn_s=cfg.turn_s), lists=Path(cfg.lists), k=cfg.k)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_in_turns")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
