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
# Where a value comes from: a column of the dataset, the query's history, the instant of the request, the last refresh
# tick, or a retriever's answer.
Origin = Literal["column", "history", "request", "tick", "retriever"]
DAY_MS = 86_400_000
MAX_STORED_HISTORY = 10_000


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        origin: where the value comes from.
        length: values a row: 1, the places of a many-valued category, of a sequence, or tokens of a text.
        default: what a missing value becomes, before encoding; None for a number without one: its mean.
    """

    name: str
    side: Side
    kind: Kind
    dtype: Literal["int64", "float32"]
    origin: Origin = "column"
    length: int = 1
    default: str | float | None = ""

    def __post_init__(self) -> None:
        for what, got, allowed in (
            ("side", self.side, get_args(Side)),
            ("kind", self.kind, get_args(Kind)),
            ("origin", self.origin, get_args(Origin)),
        ):
            if got not in allowed:
                raise FeaturesError(f"feature {self.name!r}: expected {what} to be one of {allowed}; got {got!r}")
        if self.length < 1:
            raise FeaturesError(f"feature {self.name!r}: expected a length of at least 1; got {self.length}")


@dataclass(frozen=True)
class TextLayout:
    """How the ranker's token row is laid out: [CLS] query text, history titles [SEP] candidate text [SEP].

    Attributes:
        query_tokens: tokens of what the query says; 0 where queries have no text.
        history_items: how many of the newest history items appear by title.
        history_tokens: tokens a title may take there.
        candidate_tokens: tokens of the candidate's own text.
    """

    query_tokens: int = 0
    history_items: int = 3
    history_tokens: int = 4
    candidate_tokens: int = 17

    def __post_init__(self) -> None:
        sizes = (self.query_tokens, self.history_items, self.history_tokens)
        if min(sizes) < 0 or self.candidate_tokens < 1:
            raise FeaturesError(
                "features.text: expected 0 or more query_tokens, history_items and history_tokens and at least 1 "
                f"candidate_tokens; got {sizes} and {self.candidate_tokens}"
            )

    @property
    def length(self) -> int:
        """Tokens a row, the three special ones included."""
        return 3 + self.context_tokens + self.candidate_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens between [CLS] and the first [SEP]: the query's side of the row."""
        return self.query_tokens + self.history_items * self.history_tokens


@dataclass(frozen=True)
class FeatureSpec:
    """Every feature, in the order in which arrays stack them.

    Attributes:
        tick_ms: item aggregates are as of the last multiple of this before a request.
        stored_history: newest events of a query that stores keep; no feature looks further back. 0 where what a query
            was judged for is nothing that it did: its text is then all that is known of it.
        session_gap_minutes: a longer pause begins a new session.
        repeats: whether an item of a query's own history may be recommended to it again.
    """

    features: tuple[Feature, ...]
    text: TextLayout
    tick_ms: int = DAY_MS
    stored_history: int = 1000
    session_gap_minutes: int = 30
    repeats: bool = False

    def __post_init__(self) -> None:
        fits = self.history_length <= max(self.stored_history, 1)  # an array has a place even for nothing
        if not fits or not 0 <= self.stored_history <= MAX_STORED_HISTORY:
            raise FeaturesError(
                f"features.columns.stored_history: expected at least the {self.history_length} of history_length and "
                f"at most {MAX_STORED_HISTORY}; got {self.stored_history}"
            )
        if self.tick_ms < DAY_MS or self.tick_ms % DAY_MS or self.session_gap_minutes < 1:
            raise FeaturesError(
                "features.columns: expected tick_days and session_gap_minutes of at least 1; "
                f"got {self.tick_ms / DAY_MS} and {self.session_gap_minutes}"
            )
        names = [(feature.side, feature.kind, feature.name) for feature in self.features]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise FeaturesError(f"a feature spec needs distinct names of each side and kind; {repeated} come twice")

    def names(self, side: Side, kind: Kind, *origins: Origin) -> tuple[str, ...]:
        """Names of one side and kind, in stacking order; of the given origins alone, if any are given."""
        return tuple(
            feature.name
            for feature in self.features
            if feature.side == side and feature.kind == kind and (not origins or feature.origin in origins)
        )

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
            stored_history=int(content["stored_history"]),
            session_gap_minutes=int(content["session_gap_minutes"]),
            repeats=bool(content["repeats"]),
        )
