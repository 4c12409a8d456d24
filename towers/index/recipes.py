"""What a tuner tries: types of index with few, well-spaced settings of those that need building again.

Owns the list, and how a choice stands in a config: as conf/index/*.yaml does. How much is read at search time is not
in it (effort.py); a tuner bisects that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from towers.index.band import HeaviestApart, HeaviestFirst
from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder
from towers.index.effort import Effort
from towers.index.lists import FEWEST_A_LIST, IvfFastScanBuilder, IvfFlatBuilder, IvfSq8Builder
from towers.index.scann_build import ScannBuilder

Settings = Mapping[str, Any]

NONE_APART = (0.0,)
APART = (*NONE_APART, 0.01)  # shares of the heaviest that are searched exactly
SCANN = "scann"  # among TYPES, an extra
LISTS = (1, 2, 4, 8)  # times the square root of the number of items
LONG_LISTS = (0.25, 0.5, 1, 2, 4)  # the same where a list is read so fast that finding lists costs more
# Of codes along principal axes. Residuals say more, and with them lists are chosen by product.
PRINCIPAL = {"probes": 1, "coordinates_a_code": 1, "refine": 4, "on_sphere": False, "of_residuals": True}
# What a builder calls the settings of a search.
SEARCH_SETTINGS = {"lists": "probes", "beam": "search_beam", "refine": "refine", "scanned": "scanned"}


@dataclass(frozen=True)
class Type:
    """A builder and what is tried of it.

    Attributes:
        make: the builder's class.
        settings: that all have; those of a search are a beginning.
        sizes: of lists, as LISTS, or of links; the first alone where there is nothing to choose.
        size_name: of the builder's argument.
        is_approximate: so that it has something to be tuned.
        apart: shares of the heaviest that may be searched exactly beside it.
    """

    make: Callable[..., IndexBuilder]
    settings: Settings
    sizes: tuple[float, ...] = (0,)
    size_name: str = ""
    is_approximate: bool = True
    apart: tuple[float, ...] = APART

    @property
    def middle(self) -> float:
        """The size to begin with; of two the larger."""
        return self.sizes[len(self.sizes) // 2 - (len(self.sizes) > 2)]


TYPES: Mapping[str, Type] = {
    "flat": Type(FlatBuilder, {}, is_approximate=False, apart=NONE_APART),
    "flat_half": Type(FlatBuilder, {"half": True}, is_approximate=False, apart=NONE_APART),
    "heaviest_first": Type(HeaviestFirst, {"scanned": 1}, apart=NONE_APART),
    "ivf_flat": Type(IvfFlatBuilder, {"probes": 1}, LISTS, "lists"),
    "ivf_sq8": Type(IvfSq8Builder, {"probes": 1, "refine": None}, LISTS, "lists"),
    "ivf_sq8_refined": Type(IvfSq8Builder, {"probes": 1, "refine": 2}, LISTS, "lists"),
    "ivf_fast_scan": Type(IvfFastScanBuilder, {"probes": 1, "coordinates_a_code": 2, "refine": 4}, LONG_LISTS, "lists"),
    "ivf_principal": Type(IvfFastScanBuilder, {**PRINCIPAL, "principal_share": 0.5}, LONG_LISTS, "lists"),
    "ivf_rotated": Type(
        IvfFastScanBuilder, {**PRINCIPAL, "principal_share": 0.25, "rotated": True}, LONG_LISTS, "lists"
    ),
    "fast_scan": Type(IvfFastScanBuilder, {"lists": 1, "probes": 1, "coordinates_a_code": 2, "refine": 4}),
    "hnsw": Type(HnswBuilder, {"build_beam": 100, "search_beam": 100}, (16, 32), "links"),
    SCANN: Type(ScannBuilder, {"probes": 1, "coordinates_a_code": 2, "refine": 4}, LISTS, "lists"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to build an index, for any number of items.

    Attributes:
        type: one of TYPES.
        apart: share of the heaviest that is searched exactly; 0: none.
        size: one of the type's.
    """

    type: str
    apart: float
    size: float

    def settings(self, num_items: int) -> dict[str, Any]:
        """Arguments of the type's builder."""
        own = TYPES[self.type]
        if not own.size_name:
            return dict(own.settings)
        size = self.size
        if own.size_name == "lists":
            size = max(1, min(int(self.size * num_items**0.5), num_items // FEWEST_A_LIST))
        return {own.size_name: size, **own.settings}

    def builder(self, num_items: int) -> IndexBuilder:
        """The builder, which searches with next to no effort."""
        builder = TYPES[self.type].make(**self.settings(num_items))
        return HeaviestApart(share=self.apart, builder=builder) if self.apart else builder

    def config(self, num_items: int, effort: Effort) -> dict[str, Any]:
        """What conf/index/*.yaml would say."""
        chosen = {SEARCH_SETTINGS[name]: getattr(effort, name) for name in effort.names}
        own = {"_target_": _path(TYPES[self.type].make), **self.settings(num_items), **chosen}
        return {"_target_": _path(HeaviestApart), "share": self.apart, "builder": own} if self.apart else own


def recipes(num_items: int, *, scann: bool = False) -> list[Recipe]:
    """All of them, without those that would build the same index twice; ScaNN's if that is asked for."""
    found: dict[str, Recipe] = {}
    for name, own in TYPES.items():
        if name == SCANN and not scann:
            continue
        for apart in own.apart:
            for size in own.sizes:
                recipe = Recipe(type=name, apart=apart, size=size)
                found.setdefault(f"{name} {apart} {recipe.settings(num_items)}", recipe)
    return list(found.values())


def _path(made: Callable[..., Any]) -> str:
    return f"{made.__module__}.{made.__qualname__}"
