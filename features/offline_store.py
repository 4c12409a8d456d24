"""Feast's offline store: states of queries as parquet, and the point-in-time join that reads them.

Owns the file and the join, by which training and the parity gates see a query as of a request. What a state is stands
in query_states.py. Knows nothing of models.
"""

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import FeaturesError
from features.feast_repository import SERVICE, create_repository, own_duckdb, quiet_feast
from features.packing import MAX_EVENTS
from features.query_states import (
    EVENT_TIMESTAMP,
    MICROSECONDS,
    POSITION,
    QUERY_ID,
    QueryStates,
    StateColumns,
    decode_states,
)
from features.transforms import QueryFeatures

REQUEST = "request"
ROWS_A_BATCH = 20_000
# Feast joins every request with every state of its query before it picks one, so requests go in portions.
PAIRS_A_JOIN = 500_000


@dataclass(frozen=True)
class StatesWritten:
    """What a file of states holds."""

    num_rows: int
    num_queries: int
    num_bytes: int


def write_query_states(
    path: Path,
    *,
    events: pa.Table,
    queries: pa.Table,
    columns: StateColumns,
    history_length: int = 50,
    splits: Collection[str] | None = None,
    latest_only: bool = False,
) -> StatesWritten:
    """Write the states of every query as parquet, whole or not at all.

    Args:
        path: parent directories are made.
        events: the ETL's events.parquet.
        queries: the ETL's queries.parquet; a query that only the events name has missing attributes.
        columns: which of its columns are attributes.
        history_length: newest events a state keeps.
        splits: events of other splits never happened, which is the state a release serves; None takes all.
        latest_only: only the newest state of each query.

    Raises:
        FeaturesError: history_length is out of bounds; else see `QueryStates.of`.
    """
    if not 1 <= history_length <= MAX_EVENTS:
        raise FeaturesError(f"expected a history_length of 1 to {MAX_EVENTS}; got {history_length}")
    states = QueryStates.of(events, queries=queries, columns=columns, splits=splits)
    places = np.flatnonzero(states.is_last) if latest_only else np.arange(len(states.query))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Successive histories overlap, and zstd looks back far enough to see it: 100,000 states of 50 take 5 MB.
        with pq.ParquetWriter(partial, columns.schema, compression="zstd") as writer:
            for portion in np.array_split(places, -(-len(places) // ROWS_A_BATCH) or 1):
                writer.write_batch(states.rows(portion, history_length=history_length))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return StatesWritten(
        num_rows=len(places), num_queries=len(np.unique(states.query[places])), num_bytes=path.stat().st_size
    )


def historical_features(
    path: Path,
    *,
    query_ids: Sequence[str],
    requested_at_ms: Sequence[int],
    positions: Sequence[int] | None = None,
) -> tuple[QueryFeatures, list[bool]]:
    """Features of N requests as of the requests, by Feast's point-in-time join.

    Args:
        path: states written by `write_query_states`, whole rather than latest only.
        query_ids: [N].
        requested_at_ms: [N] a request sees the events before its millisecond, never those of it.
        positions: [N] for requests that stand for events of the log: the state right before the event at this
            position, which events at the same instant may precede. None goes by the instant.

    Returns:
        The features, and [N] whether the query was known by then: an unknown one has missing features.

    Raises:
        FeaturesError: the lengths differ, or a query has no event at the position.
    """
    if len(query_ids) != len(requested_at_ms) or (positions is not None and len(positions) != len(query_ids)):
        raise FeaturesError(f"expected an instant, and a position if any, for each of {len(query_ids)} requests")
    index = pq.read_table(path, columns=[QUERY_ID, POSITION, EVENT_TIMESTAMP])
    if positions is None:
        before_us = np.asarray(requested_at_ms, dtype=np.int64) * MICROSECONDS - 1
    else:
        before_us = _instants_of(index, query_ids=query_ids, positions=positions) - 1
    names = StateColumns.from_schema(pq.read_schema(path))
    requests = pd.DataFrame(
        {
            QUERY_ID: pd.Series(query_ids, dtype=object),
            EVENT_TIMESTAMP: pd.to_datetime(before_us, unit="us", utc=True),
            REQUEST: np.arange(len(query_ids)),
        }
    )
    if requests.empty:
        return decode_states({name: [] for name in names.features}, columns=names, requested_at_ms=[])
    states = _join(path, portions=_portions(requests, index), columns=names)
    return decode_states(states.to_pydict(), columns=names, requested_at_ms=requested_at_ms)


def _instants_of(index: pa.Table, *, query_ids: Sequence[str], positions: Sequence[int]) -> NDArray[np.int64]:
    """[N] instants in microseconds of the states at these positions."""
    at_us = index[EVENT_TIMESTAMP].cast(pa.int64()).to_pylist()
    known = dict(zip(zip(index[QUERY_ID].to_pylist(), index[POSITION].to_pylist(), strict=True), at_us, strict=True))
    try:
        return np.array([known[key] for key in zip(query_ids, positions, strict=True)], dtype=np.int64)
    except KeyError as error:
        query_id, position = error.args[0]
        raise FeaturesError(
            f"expected positions of the states' log; query {query_id!r} has none at {position}"
        ) from None


def _portions(requests: pd.DataFrame, index: pa.Table) -> Iterator[pd.DataFrame]:
    """The requests in portions of about PAIRS_A_JOIN pairs of request and state."""
    counts = index[QUERY_ID].value_counts()
    num_states = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    pairs = np.cumsum([num_states.get(query_id, 1) for query_id in requests[QUERY_ID]])
    for _, portion in requests.groupby(pairs // PAIRS_A_JOIN):
        yield portion


def _join(path: Path, *, portions: Iterable[pd.DataFrame], columns: StateColumns) -> pa.Table:
    """One row a request, in the order of the requests, with every feature; null where the query was not known."""
    with tempfile.TemporaryDirectory() as directory, quiet_feast(), own_duckdb():
        store = create_repository(Path(directory), states=path, columns=columns, tags={})
        service = store.get_feature_service(SERVICE)
        joined = [
            # Without the filter a row appended later is seen by requests before it was known (feast issue 6615).
            store.get_historical_features(
                entity_df=portion, features=service, filter_by_created_timestamp=True
            ).to_arrow()
            for portion in portions
        ]
    return pa.concat_tables(joined).sort_by(REQUEST).select(columns.features)
