"""What a query is known by, at every instant of its log: a state right after each of its events.

Owns the columns of a state, the states of a log, and the way back from rows of states to features. Knows nothing of
stores: offline_store.py keeps states, online_store.py serves the newest.

    query_id          who
    history           packed, packing.py: the newest events up to and including the state's own
    state_at_ms       instant of that event
    position          its place in the query's log, BEFORE_ALL for the state before all events
    one column a category (text, "" = missing) and a number (float64, nan = missing)
    event_timestamp   orders the states of a query
    created           when the row became known

Time. Many logs have several events of a query at one instant (76 % of MovieLens-100K's rows), and only the position
says which came first. A state's `event_timestamp` is therefore its event's instant plus one microsecond for each
earlier event of the query at that instant: the order of states by time is their order by position, in a point-in-time
join and when materialising, whatever a store does with ties. Instants are whole milliseconds, so the next one is never
reached.

`created` equals `event_timestamp`: a log knows an event when it happens. Whoever appends a row for an older event later
gives it the instant of the appending, and joins for requests before that do not see it.

Each query of the table of queries also has a state before all events of the log, with its attributes and an empty
history. So a query without events can be served, and a first event has a state before it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import FeaturesError, SchemaMismatch
from features.packing import History, HistoryColumns, unpack_history
from features.transforms import QueryFeatures

QUERY_ID = "query_id"
HISTORY = "history"
STATE_AT_MS = "state_at_ms"
POSITION = "position"
EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created"
RESERVED = (QUERY_ID, HISTORY, STATE_AT_MS, POSITION, EVENT_TIMESTAMP, CREATED)

BEFORE_ALL = -1
MICROSECONDS = 1_000
INSTANT = pa.timestamp("us", tz="UTC")
EVENT_COLUMNS = ("query_id", "item_id", "value", "occurred_at_ms", "position", "split")


@dataclass(frozen=True)
class StateColumns:
    """Names of a query's attributes, in stacking order."""

    categories: tuple[str, ...]
    numbers: tuple[str, ...]

    def __post_init__(self) -> None:
        names = self.categories + self.numbers
        wrong = sorted({name for name in names if names.count(name) > 1 or name in RESERVED or not name.isidentifier()})
        if wrong:
            raise FeaturesError(
                f"query attributes need distinct names that are identifiers and none of {', '.join(RESERVED)}; "
                f"got {', '.join(map(repr, wrong))}"
            )

    @classmethod
    def from_schema(cls, schema: pa.Schema) -> Self:
        """The columns of a table of states: text is a category, float64 a number.

        Raises:
            SchemaMismatch: the table lacks a column that every table of states has.
        """
        missing = [name for name in RESERVED if name not in schema.names]
        if missing:
            raise SchemaMismatch(
                f"a table of query states has the columns {', '.join(RESERVED)}; {', '.join(missing)} missing; "
                "write it with features.offline_store.write_query_states"
            )
        attributes = [field for field in schema if field.name not in RESERVED]
        return cls(
            categories=tuple(field.name for field in attributes if pa.types.is_string(field.type)),
            numbers=tuple(field.name for field in attributes if pa.types.is_float64(field.type)),
        )

    @property
    def schema(self) -> pa.Schema:
        """Of a table of states."""
        return pa.schema(
            [
                (QUERY_ID, pa.string()),
                (HISTORY, pa.binary()),
                (STATE_AT_MS, pa.int64()),
                (POSITION, pa.int32()),
                *((name, pa.string()) for name in self.categories),
                *((name, pa.float64()) for name in self.numbers),
                (EVENT_TIMESTAMP, INSTANT),
                (CREATED, INSTANT),
            ]
        )

    @property
    def features(self) -> list[str]:
        """Columns that a store returns for a query."""
        return [HISTORY, STATE_AT_MS, *self.categories, *self.numbers]


@dataclass(frozen=True)
class QueryStates:
    """S states ordered by (query, position).

    Attributes:
        columns: the attributes' names.
        attributes: one row a query, with its id.
        events: of all queries, ordered like the states.
        query: [S] row in `attributes`.
        position: [S] of the state's event.
        at_us: [S] instant in microseconds, ties told apart.
        start: [S] place in `events` of the query's first one.
        stop: [S] place after the state's own one.
    """

    columns: StateColumns
    attributes: pa.Table
    events: HistoryColumns
    query: NDArray[np.int64]
    position: NDArray[np.int64]
    at_us: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(
        cls, events: pa.Table, *, queries: pa.Table, columns: StateColumns, splits: Collection[str] | None = None
    ) -> Self:
        """States of a log.

        Args:
            events: the ETL's events.
            queries: the ETL's queries; a query that only the events name has missing attributes.
            columns: which of its columns are attributes.
            splits: events of other splits never happened; None takes all.

        Raises:
            SchemaMismatch: a column is missing.
            FeaturesError: positions and instants disagree, or more than 1,000 events of a query share an instant.
        """
        missing = [name for name in EVENT_COLUMNS if name not in events.column_names]
        missing += [
            name for name in (QUERY_ID, *columns.categories, *columns.numbers) if name not in queries.column_names
        ]
        if missing:
            raise SchemaMismatch(f"states need the columns {', '.join(missing)}, which events or queries lack")
        query_ids = pa.concat_arrays(
            [table[QUERY_ID].cast(pa.string()).combine_chunks() for table in (queries, events)]
        ).unique()
        codes = pc.index_in(events[QUERY_ID].cast(pa.string()), value_set=query_ids).to_numpy().astype(np.int64)
        order = np.lexsort((events["position"].to_numpy(), codes))
        codes, position = codes[order], events["position"].to_numpy()[order].astype(np.int64)
        at_us = _instants_with_ties(codes, at_ms=events["occurred_at_ms"].to_numpy()[order], query_ids=query_ids)
        before_all_us = int(at_us.min()) - 1 if len(at_us) else 0
        if splits is not None:
            kept = np.isin(events["split"].to_numpy()[order].astype(str), sorted(splits))
            order, codes, position, at_us = order[kept], codes[kept], position[kept], at_us[kept]
        log = events.select(["item_id", "value"]).take(pa.array(order))
        packed = HistoryColumns(
            item_ids=log["item_id"].to_pylist(), values=log["value"].to_numpy(), at_ms=at_us // MICROSECONDS
        )
        start = np.searchsorted(codes, np.arange(len(query_ids)))
        # One more state for each query of the table, in front of its events; codes number the table's queries first.
        num_known = len(queries[QUERY_ID].unique())
        codes = np.append(codes, np.arange(num_known))
        position = np.append(position, np.full(num_known, BEFORE_ALL))
        at_us = np.append(at_us, np.full(num_known, before_all_us))
        order = np.lexsort((position, codes))
        codes, position, at_us = codes[order], position[order], at_us[order]
        return cls(
            columns=columns,
            attributes=_attributes(queries, query_ids=query_ids, columns=columns),
            events=packed,
            query=codes,
            position=position,
            at_us=at_us,
            start=start[codes],
            stop=np.cumsum(position != BEFORE_ALL),
        )

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Whether the state is the newest of its query."""
        return np.append(self.query[1:] != self.query[:-1], True)[: len(self.query)]

    def rows(self, places: NDArray[np.int64], *, history_length: int) -> pa.RecordBatch:
        """Some of the states as rows with `columns.schema`, each with at most `history_length` events."""
        schema = self.columns.schema
        start = np.maximum(self.start[places], self.stop[places] - history_length)
        packed = [self.events.pack(*window) for window in zip(start.tolist(), self.stop[places].tolist(), strict=True)]
        attributes = self.attributes.take(pa.array(self.query[places])).combine_chunks()
        instants = pa.array(self.at_us[places]).cast(INSTANT)
        arrays = {
            HISTORY: pa.array(packed, pa.binary()),
            STATE_AT_MS: pa.array(self.at_us[places] // MICROSECONDS),
            POSITION: pa.array(self.position[places], pa.int32()),
            EVENT_TIMESTAMP: instants,
            CREATED: instants,
        }
        return pa.RecordBatch.from_arrays(
            [arrays[name] if name in arrays else attributes[name].combine_chunks() for name in schema.names],
            schema=schema,
        )


def _instants_with_ties(
    codes: NDArray[np.int64], *, at_ms: NDArray[np.int64], query_ids: pa.Array
) -> NDArray[np.int64]:
    """[E] instants in microseconds of events ordered by (query, position), strictly rising within a query."""
    same_query = codes[1:] == codes[:-1]
    backwards = np.flatnonzero(same_query & (at_ms[1:] < at_ms[:-1]))
    if len(backwards):
        raise FeaturesError(
            f"positions must follow instants; query {query_ids[int(codes[backwards[0]])]} has an event at "
            f"{at_ms[backwards[0]]} ms before one at {at_ms[backwards[0] + 1]} ms"
        )
    place = np.arange(len(codes))
    is_tie = np.append(False, same_query & (at_ms[1:] == at_ms[:-1]))[: len(codes)]
    offset = place - np.maximum.accumulate(np.where(is_tie, 0, place))
    if len(offset) and int(offset.max()) >= MICROSECONDS:
        worst = int(offset.argmax())
        raise FeaturesError(
            f"at most {MICROSECONDS} events of a query can share an instant; query {query_ids[int(codes[worst])]} has "
            f"{offset[worst] + 1} at {at_ms[worst]} ms; merge them in the ETL or give the log finer instants"
        )
    return at_ms.astype(np.int64) * MICROSECONDS + offset


def _attributes(queries: pa.Table, *, query_ids: pa.Array, columns: StateColumns) -> pa.Table:
    rows = pc.index_in(query_ids, value_set=queries[QUERY_ID].cast(pa.string()))  # null where queries lacks the query
    return pa.table(
        {
            QUERY_ID: query_ids,
            **{name: queries[name].cast(pa.string()).take(rows).fill_null("") for name in columns.categories},
            **{name: queries[name].cast(pa.float64()).take(rows).fill_null(np.nan) for name in columns.numbers},
        }
    )


def decode_states(
    states: Mapping[str, Sequence[Any]], *, columns: StateColumns, requested_at_ms: Sequence[int]
) -> tuple[QueryFeatures, list[bool]]:
    """Rows of N states, as a store returns them, as features; a null state is an unknown query.

    Returns:
        The features, and [N] whether the query is known; an unknown one has an empty history, "" and nan.
    """
    histories = [
        History(item_ids=[], values=[], at_ms=[]) if packed is None else unpack_history(packed)
        for packed in states[HISTORY]
    ]
    num = len(histories)
    features = QueryFeatures(
        history_item_ids=[history.item_ids for history in histories],
        history_values=[history.values for history in histories],
        history_at_ms=[history.at_ms for history in histories],
        categories=[[states[name][n] or "" for name in columns.categories] for n in range(num)],
        numbers=[[_number(states[name][n]) for name in columns.numbers] for n in range(num)],
        requested_at_ms=list(requested_at_ms),
    )
    return features, [packed is not None for packed in states[HISTORY]]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
