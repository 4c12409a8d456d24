"""What several scripts build of a composed config with training code, which those that only ask a server do without."""

from pathlib import Path
from typing import Any

from composed import build, dataset_of, protocol_of
from omegaconf import DictConfig, OmegaConf

from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.steps import MissingInput
from lifecycle.train_ranker import RankerTraining
from lifecycle.tune_index import CHOICE_FILE


def index_of(cfg: DictConfig) -> DictConfig:
    """The index that a config names, or that scripts/tune_index.py chose.

    Raises:
        MissingInput: it has chosen none in that folder.
    """
    if cfg.index_choice is None:
        named: DictConfig = cfg.index
        return named
    path = Path(cfg.index_choice) / CHOICE_FILE
    if not path.is_file():
        raise MissingInput(f"index_choice: {path} is missing; scripts/tune_index.py writes it")
    chosen: DictConfig = OmegaConf.create({"index_choice": OmegaConf.load(path)}).index_choice
    return chosen


def index_builder_of(cfg: DictConfig) -> dict[str, Any]:
    """What builds that index, and the settings of it, as IndexStep takes them."""
    index = index_of(cfg)
    return {"builder": build(index), "builder_settings": OmegaConf.to_container(index, resolve=True)}


def ranker_training_of(cfg: DictConfig) -> RankerTraining:
    """The rankers' training on the candidates of the fold."""
    return RankerTraining(
        dataset=dataset_of(cfg),
        protocol=protocol_of(cfg),
        stage_one=StageOne.open(FOLD, towers_dir=Path(cfg.towers_dir), index_dir=Path(cfg.index_dir)),
        **build(cfg.ranker),
        build_trainer=build(cfg.trainer),
        seed=cfg.seed,
    )
