"""Search for better settings of the towers: trials on the fold's validation, the best of them under other seeds.

python scripts/tune.py [hparams_search=towers] [num_trials=30] ['overrides=["towers=gated"]']

The same command goes on where it was killed; with a higher num_trials it adds to what is there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from composed import plain
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from train_towers import training_of

from lifecycle.entry import plain_errors
from lifecycle.steps import checked_step, exclusive
from lifecycle.tuning import Search, Settings, as_overrides, space_of
from lifecycle.tuning_report import write_tuning_report

CONF = Path(__file__).resolve().parents[1] / "conf"


def run(cfg: DictConfig) -> None:
    directory, overrides = Path(cfg.tune_dir), list(cfg.overrides)

    def composed(settings: Settings, *, seed: int) -> DictConfig:
        own = [*overrides, *as_overrides(settings), f"seed={seed}", f"data_dir={cfg.data_dir}"]
        try:
            return compose(config_name="train_towers", overrides=own)
        except HydraException as error:
            raise ValueError(f"{' '.join(own)} is nothing that scripts/train_towers.py takes: {error}") from error

    def train(settings: Settings, *, seed: int, directory: Path, watchers: Sequence[Callback]) -> Mapping[str, float]:
        return training_of(composed(settings, seed=seed)).tried(directory, watchers=watchers)

    space = space_of(plain(cfg.hparams_search, ["space"])["space"])
    first = {name: (each.choices or (each.low,))[0] for name, each in space.items()}
    composed({name: value for name, value in first.items() if value is not None}, seed=cfg.seed)
    names = ("seed", "num_trials", "random_trials", "patient_epochs", "num_finalists")
    search = Search(
        space=space,
        train=train,
        directory=directory,
        basis={"overrides": overrides, "data": checked_step(Path(cfg.data_dir))["fingerprint"]},
        finalist_seeds=list(cfg.finalist_seeds),
        **{name: cfg[name] for name in names},
    )
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory / "lock"):
        study = search.run()
        groups = {path.name for path in CONF.iterdir() if path.is_dir()}
        finalists = search.finalists(study)
        print(
            write_tuning_report(
                study, finalists, directory=directory, overrides=overrides, groups=groups, label="NDCG@10"
            )
        )


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
