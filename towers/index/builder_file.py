"""What builds an index, as a file beside it: whoever merges changes into one builds it anew the same way.

Owns reading the settings that conf/index/*.yaml give; only this project's own builders are made of a file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from towers.errors import UnfitPieces
from towers.index.band import HeaviestApart, HeaviestFirst
from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder
from towers.index.gpu_build import CagraBuilder, IvfPqBuilder, OnGpu
from towers.index.lists import IvfFastScanBuilder, IvfFlatBuilder, IvfSq8Builder
from towers.index.scann_build import ScannBuilder

TARGET = "_target_"
BUILDERS: Mapping[str, Callable[..., IndexBuilder]] = {
    f"{own.__module__}.{own.__qualname__}": own
    for own in (
        FlatBuilder,
        HnswBuilder,
        IvfFlatBuilder,
        IvfSq8Builder,
        IvfFastScanBuilder,
        HeaviestApart,
        HeaviestFirst,
        OnGpu,
        IvfPqBuilder,
        CagraBuilder,
        ScannBuilder,
    )
}


def builder_of(settings: Mapping[str, Any]) -> IndexBuilder:
    """The builder of settings as conf/index/*.yaml have them.

    Raises:
        UnfitPieces: they name no builder, or not as it takes them.
    """
    own = dict(settings)
    name = own.pop(TARGET, None)
    made = BUILDERS.get(name) if isinstance(name, str) else None
    if made is None:
        raise UnfitPieces(f"expected {TARGET} to be one of {', '.join(BUILDERS)}; got {name!r}")
    try:
        return made(**{key: builder_of(value) if isinstance(value, Mapping) else value for key, value in own.items()})
    except TypeError as error:
        raise UnfitPieces(f"{name} does not take these settings: {error}") from error


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a json file."""
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def read_builder(path: Path) -> IndexBuilder:
    """The builder that a file names.

    Raises:
        UnfitPieces: it is no json, or as `builder_of`.
        OSError: it cannot be read.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnfitPieces(f"{path} is no json file: {error}; build the index again: scripts/build_index.py") from error
    if not isinstance(settings, dict):
        raise UnfitPieces(f"{path}: expected settings of a builder; got {type(settings).__name__}")
    return builder_of(settings)
