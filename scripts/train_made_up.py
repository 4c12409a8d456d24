"""Train the towers on made-up histories in turns; scripts/bench_training_growth.py runs it.

python scripts/train_made_up.py [training.num_items=1000000] [training.history_length=50] [loss=full_softmax]
"""

import hydra
from composed import build
from omegaconf import DictConfig

from lifecycle.entry import plain_errors
from lifecycle.made_up_training import MadeUpTraining
from lifecycle.turns import Turns


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_made_up")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        training: MadeUpTraining = build(cfg.training)
        training.run(Turns(turn_s=cfg.turn_s))


if __name__ == "__main__":
    main()
