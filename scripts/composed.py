"""What scripts make of a composed config: plain values for a step's fingerprint, and the dataset in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def columns_of(cfg: DictConfig) -> FeatureColumns:
    """Which columns become features."""
    columns: FeatureColumns = instantiate(cfg.features.columns, _convert_="all")
    return columns


def dataset_of(cfg: DictConfig) -> Dataset:
    """The prepared dataset."""
    return Dataset.read(Path(cfg.data_dir), name=cfg.dataset.name, columns=columns_of(cfg))
