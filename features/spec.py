"""The description of every feature, frozen and hashed.

Owns names, kinds, shapes and defaults. The hash is written into checkpoints, ONNX metadata and the release; a release
whose spec has another hash, and a request of another spec, are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

from features.errors import FeaturesError

Side = Literal["query", "item", "ranker"]
Kind = Literal["id", "category", "number", "sequence", "text"]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        length: values a row: 1, the places of a many-valued category, of a sequence, or tokens of a text.
        default: what a missing value becomes, before encoding.
    """

    name: str
    side: Side
    kind: Kind
    dtype: Literal["int64", "float32"]
    length: int = 1
    default: str | float = ""

    def __post_init__(self) -> None:
        if self.side not in get_args(Side) or self.kind not in get_args(Kind) or self.length < 1:
            raise FeaturesError(
                f"feature {self.name!r}: expected a side of {get_args(Side)}, a kind of {get_args(Kind)} and a length "
                f"of at least 1; got {self.side!r}, {self.kind!r}, {self.length}"
            )


@dataclass(frozen=True)
class TextLayout:
    """How the ranker's token row is laid out: [CLS] history titles [SEP] candidate text [SEP].

    Attributes:
        history_items: how many of the newest history items appear by title.
        history_tokens: tokens a title may take there.
        candidate_tokens: tokens of the candidate's own text.
    """

    history_items: int = 3
    history_tokens: int = 4
    candidate_tokens: int = 17

    @property
    def length(self) -> int:
        """Tokens a row, the three special ones included."""
        return 3 + self.history_items * self.history_tokens + self.candidate_tokens


@dataclass(frozen=True)
class FeatureSpec:
    """Every feature, in the order in which arrays stack them."""

    features: tuple[Feature, ...]
    text: TextLayout
    tick_ms: int = DAY_MS

    def __post_init__(self) -> None:
        names = [(feature.side, feature.kind, feature.name) for feature in self.features]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise FeaturesError(f"a feature spec needs distinct names of each side and kind; {repeated} come twice")

    def names(self, side: Side, kind: Kind) -> tuple[str, ...]:
        """Names of one side and kind, in stacking order."""
        return tuple(feature.name for feature in self.features if feature.side == side and feature.kind == kind)

    def length(self, side: Side, kind: Kind) -> int:
        """The longest length among the features of one side and kind; 1 if there are none."""
        return max((f.length for f in self.features if f.side == side and f.kind == kind), default=1)

    @property
    def history_length(self) -> int:
        """Newest history items that reach the query tower."""
        return self.length("query", "sequence")

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits; equal specs have equal hashes on every machine."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain containers for a json file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(
            features=tuple(Feature(**feature) for feature in content["features"]),
            text=TextLayout(**content["text"]),
            tick_ms=int(content["tick_ms"]),
        )


@dataclass(frozen=True)
class FeatureColumns:
    """Which raw columns become which features, and how long they may be; conf/features/*.yaml fills it."""

    query_categories: tuple[str, ...]
    query_numbers: tuple[str, ...]
    item_categories: tuple[str, ...]
    item_numbers: tuple[str, ...]
    item_texts: tuple[str, ...]
    history_length: int = 50
    category_length: int = 4
    min_category_count: int = 2
    tick_days: int = 1

    def spec(self, *, text: TextLayout, ranker_features: tuple[str, ...]) -> FeatureSpec:
        """The spec of a dataset with these columns."""
        return FeatureSpec(
            features=(
                Feature("history", "query", "sequence", "int64", self.history_length),
                *(Feature(name, "query", "category", "int64") for name in self.query_categories),
                *(Feature(name, "query", "number", "float32", default=float("nan")) for name in self.query_numbers),
                Feature("item_id", "item", "id", "int64"),
                *(Feature(name, "item", "category", "int64", self.category_length) for name in self.item_categories),
                *(Feature(name, "item", "number", "float32", default=float("nan")) for name in self.item_numbers),
                *(Feature(name, "item", "text", "int64", text.candidate_tokens) for name in self.item_texts),
                *(Feature(name, "ranker", "number", "float32", default=0.0) for name in ranker_features),
            ),
            text=text,
            tick_ms=self.tick_days * DAY_MS,
        )
