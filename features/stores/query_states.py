"""What a query is known by, at every instant of its log: a state right after each of its events.

Owns the states of a log. The columns of a state stand in state_rows.py. Knows nothing of stores: offline_store.py keeps
states, online_store.py serves the newest.

Time. Many logs have several events of a query at one instant (76 % of MovieLens-100K's rows), and only the position
says which came first. A state's `event_timestamp` is therefore its event's instant plus one microsecond, for it holds
right after the event, and one more for each earlier event of the query at that instant: the order of states by time is
their order by position, in a point-in-time join and when materialising, whatever a store does with ties. Instants are
whole milliseconds, so a request at the next one sees them all.

`created` equals `event_timestamp`: a log knows an event when it happens. Whoever appends a row for an older event later
gives it the instant of the appending, and joins for requests before that do not see it.

Each query of the table of queries also has a state before all events of the log, with its attributes and an empty
history. So a query without events can be served, and a first event has a state before it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import FeaturesError, SchemaMismatch
from features.stores.packing import HistoryColumns
from features.stores.state_rows import (
    BEFORE_ALL,
    CREATED,
    EVENT_TIMESTAMP,
    HISTORY,
    INSTANT,
    POSITION,
    QUERY_ID,
    STATE_AT_MS,
    StateColumns,
)
from features.text import column_text

MICROSECONDS = 1_000
EVENT_COLUMNS = ("query_id", "item_id", "event", "value", "occurred_at_ms", "position", "split")


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
        missing += [name for name in (QUERY_ID, *columns.attributes) if name not in queries.column_names]
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
        log = events.select(["item_id", "event", "value", "occurred_at_ms"]).take(pa.array(order))
        packed = HistoryColumns(
            item_ids=log["item_id"].to_pylist(),
            events=log["event"].to_pylist(),
            values=log["value"].to_numpy(),
            at_ms=log["occurred_at_ms"].to_numpy(),
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
            STATE_AT_MS: pa.array((self.at_us[places] - 1) // MICROSECONDS),
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
    return at_ms.astype(np.int64) * MICROSECONDS + offset + 1


def _attributes(queries: pa.Table, *, query_ids: pa.Array, columns: StateColumns) -> pa.Table:
    rows = pc.index_in(query_ids, value_set=queries[QUERY_ID].cast(pa.string()))  # null where queries lacks the query
    return pa.table(
        {
            QUERY_ID: query_ids,
            **({columns.text: _texts(queries[columns.text]).take(rows).fill_null("")} if columns.text else {}),
            **{name: queries[name].cast(pa.string()).take(rows).fill_null("") for name in columns.categories},
            **{name: queries[name].cast(pa.float64()).take(rows).fill_null(np.nan) for name in columns.numbers},
        }
    )


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([column_text(value) for value in column.to_pylist()], pa.string())
