"""What scripts make of a composed config: plain values for a step's fingerprint, and the dataset in memory."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.engines import Engine
from features.pairs import ranker_feature_names
from features.protocol import RequestProtocol
from features.spec import FeatureSpec
from serving.retrieval import score_names


def plain(cfg: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    """The named parts of a config, resolved, as dicts, lists and scalars."""
    content: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name], resolve=True) if OmegaConf.is_config(cfg[name]) else cfg[name]
        for name in names
    }
    return content


def file_stamps(node: DictConfig) -> dict[str, list[int]]:
    """Size and time of change of each file that a config names, and of those of a folder that it calls its path.

    A step's fingerprint holds them, for new files of the same names are other inputs.
    """
    stamps: dict[str, list[int]] = {}
    for key, value in node.items():
        if isinstance(value, DictConfig):
            stamps |= file_stamps(value)
        elif isinstance(value, str) and value:
            path = Path(value)
            files = [path] if path.is_file() else sorted(path.rglob("*")) if key in ("path", "directory") else []
            known = [(file, file.stat()) for file in files if file.is_file()]
            stamps |= {str(file): [stat.st_size, stat.st_mtime_ns] for file, stat in known}
    return stamps


def build(node: DictConfig) -> Any:
    """Build what a node names.

    Raises:
        ValueError: a constructor takes no such argument, or refused those that it got; the message has the place in the
            config.
    """
    check_arguments(node)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is None:
            raise ValueError(str(error)) from error
        raise ValueError(f"{node._get_full_key(None)}: {error.__cause__}") from error


def check_arguments(node: DictConfig) -> None:
    """Refuse settings that nothing takes, at any depth: what is built later would say so only then.

    Raises:
        ValueError: there is one; the message names what is taken.
    """
    for value in node.values():
        for part in value if isinstance(value, ListConfig) else (value,):
            if isinstance(part, DictConfig):
                check_arguments(part)
    if "_target_" not in node:
        return
    taken = inspect.signature(get_object(node._target_)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for name in node:
        if not str(name).startswith("_") and name not in taken:
            raise ValueError(
                f"{node._get_full_key(name)}: {node._target_.rpartition('.')[2]} takes {', '.join(taken)}; leave it "
                "out, or choose what has it"
            )


def columns_of(cfg: DictConfig) -> FeatureColumns:
    """Which columns become features."""
    columns: FeatureColumns = build(cfg.features.columns)
    return columns


def spec_of(cfg: DictConfig) -> FeatureSpec:
    """All features, those of the rankers among them."""
    columns, text = columns_of(cfg), build(cfg.features.text)
    names = ranker_feature_names(
        retrievers=score_names(query_text=columns.has_query_text(text)),
        item_categories=columns.item_categories,
        item_numbers=columns.item_numbers,
    )
    return columns.spec(text=text, ranker_features=names)


def engine_of(cfg: DictConfig) -> Engine:
    """What runs the ETL.

    Raises:
        ValueError: etl.engine names none, or its settings cannot be.
    """
    names = [name for name, node in cfg.etl.items() if OmegaConf.is_config(node)]
    if cfg.etl.engine not in names:
        raise ValueError(f"etl.engine: expected one of {', '.join(names)}; got {cfg.etl.engine!r}")
    engine: Engine = build(cfg.etl[cfg.etl.engine])
    return engine


def dataset_of(cfg: DictConfig) -> Dataset:
    """The prepared dataset."""
    return Dataset.read(Path(cfg.data_dir), name=cfg.dataset.name, columns=columns_of(cfg))


def protocol_of(cfg: DictConfig) -> RequestProtocol:
    """What is asked of held-out events, and which answers count."""
    return RequestProtocol(
        split=build(cfg.dataset.split),
        repeats=cfg.dataset.repeats,
        min_item_queries=cfg.dataset.min_item_queries,
        count_unreachable=cfg.dataset.count_unreachable,
    )
