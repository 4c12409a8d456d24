"""What scripts make of a composed config: plain values for a step's fingerprint, and the dataset in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from features.dataset import Dataset
from features.spec import FeatureColumns


def plain(cfg: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    """The named parts of a config, resolved, as dicts, lists and scalars."""
    content: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name], resolve=True) if OmegaConf.is_config(cfg[name]) else cfg[name]
        for name in names
    }
    return content


def build(node: DictConfig) -> Any:
    """Build what a node names.

    Raises:
        ValueError: a constructor refused its arguments; the message is its own, with the place in the config.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is None:
            raise ValueError(str(error)) from error
        raise ValueError(f"{node._get_full_key(None)}: {error.__cause__}") from error


def columns_of(cfg: DictConfig) -> FeatureColumns:
    """Which columns become features."""
    columns: FeatureColumns = build(cfg.features.columns)
    return columns


def dataset_of(cfg: DictConfig) -> Dataset:
    """The prepared dataset."""
    return Dataset.read(Path(cfg.data_dir), name=cfg.dataset.name, columns=columns_of(cfg))
