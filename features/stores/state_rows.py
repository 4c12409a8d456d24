"""A row of query state: its columns, generated from the FeatureSpec, and the way back from rows to features.

Owns names and types. Which states a log has is query_states.py's; offline_store.py keeps rows, online_store.py serves
the newest.

    query_id          who
    history           packed, packing.py: the newest events up to and including the state's own
    state_at_ms       instant of that event
    position          its place in the query's log, BEFORE_ALL for the state before all events
    the query's text, if the spec has one, on one line ("" = says nothing)
    one column a category (text, "" = missing) and a number (float64, nan = missing) that comes from the dataset
    event_timestamp   orders the states of a query
    created           when the row became known
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from features.errors import FeaturesError
from features.spec import FeatureSpec
from features.stores.packing import History, unpack_history
from features.transforms import QueryFeatures

QUERY_ID = "query_id"
HISTORY = "history"
STATE_AT_MS = "state_at_ms"
POSITION = "position"
EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created"
RESERVED = (QUERY_ID, HISTORY, STATE_AT_MS, POSITION, EVENT_TIMESTAMP, CREATED)

BEFORE_ALL = -1
INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class StateColumns:
    """Names of a query's attributes, in stacking order.

    Attributes:
        text: what the query says; "" where queries say nothing.
    """

    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    text: str = ""

    def __post_init__(self) -> None:
        names = self.attributes
        wrong = sorted({name for name in names if names.count(name) > 1 or name in RESERVED or not name.isidentifier()})
        if wrong:
            raise FeaturesError(
                f"query attributes need distinct names that are identifiers and none of {', '.join(RESERVED)}; "
                f"got {', '.join(map(repr, wrong))}"
            )

    @classmethod
    def of(cls, spec: FeatureSpec) -> Self:
        """The attributes that features of a spec are made of; what follows from a history is not among them."""
        texts = spec.names("query", "text", "column")
        return cls(
            categories=spec.names("query", "category", "column"),
            numbers=spec.names("query", "number", "column"),
            text=texts[0] if texts else "",
        )

    @property
    def attributes(self) -> tuple[str, ...]:
        """All names, the text's first."""
        return (*((self.text,) if self.text else ()), *self.categories, *self.numbers)

    @property
    def schema(self) -> pa.Schema:
        """Of a table of states."""
        return pa.schema(
            [
                (QUERY_ID, pa.string()),
                (HISTORY, pa.binary()),
                (STATE_AT_MS, pa.int64()),
                (POSITION, pa.int32()),
                *((name, pa.float64() if name in self.numbers else pa.string()) for name in self.attributes),
                (EVENT_TIMESTAMP, INSTANT),
                (CREATED, INSTANT),
            ]
        )

    @property
    def features(self) -> list[str]:
        """Columns that a store returns for a query."""
        return [HISTORY, STATE_AT_MS, POSITION, *self.attributes]


def decode_states(
    states: Mapping[str, Sequence[Any]], *, columns: StateColumns, requested_at_ms: Sequence[int]
) -> tuple[QueryFeatures, list[bool]]:
    """Rows of N states, as a store returns them, as features; a null state is an unknown query.

    Returns:
        The features, and [N] whether the query is known; an unknown one has an empty history, "" and nan.
    """
    histories = [
        History(item_ids=[], events=[], values=[], at_ms=[]) if packed is None else unpack_history(packed)
        for packed in states[HISTORY]
    ]
    num = len(histories)
    features = QueryFeatures(
        history_item_ids=[history.item_ids for history in histories],
        history_events=[history.events for history in histories],
        history_values=[history.values for history in histories],
        history_at_ms=[history.at_ms for history in histories],
        texts=[text or "" for text in states[columns.text]] if columns.text else [""] * num,
        categories=[[states[name][n] or "" for name in columns.categories] for n in range(num)],
        numbers=[[_number(states[name][n]) for name in columns.numbers] for n in range(num)],
        requested_at_ms=list(requested_at_ms),
    )
    return features, [packed is not None for packed in states[HISTORY]]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
