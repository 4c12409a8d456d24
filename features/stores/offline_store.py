"""Feast's offline store: states of queries and statistics of items as files, and what they were as of a request.

Owns the file of states and which instant a request sees. Training and the parity gates ask here. What a state is stands
in query_states.py, the join in point_in_time.py. Knows nothing of models.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import FeaturesError
from features.spec import FeatureSpec
from features.statistics import STATISTICS
from features.stores.feast_repository import (
    ITEM_SERVICE,
    ITEM_STATISTICS,
    QUERY_SERVICE,
    QUERY_STATE,
    TRAINING_SERVICE,
    Sources,
)
from features.stores.feature_files import read_spec, write_rows
from features.stores.point_in_time import point_in_time_join
from features.stores.query_states import MICROSECONDS, QueryStates
from features.stores.state_rows import EVENT_TIMESTAMP, INSTANT, POSITION, QUERY_ID, StateColumns, decode_states
from features.transforms import QueryFeatures
from features.vocab import ITEM_ID

ROWS_A_BATCH = 20_000
# What a batch of packed histories may hold in memory: 4 M events are 100 MB.
EVENTS_A_BATCH = 4_000_000


@dataclass(frozen=True)
class StatesWritten:
    """What a file of states holds."""

    num_rows: int
    num_queries: int
    num_bytes: int


@dataclass(frozen=True)
class TrainingRows:
    """What was known at N requests, each of a query for an item.

    Attributes:
        queries: features of the queries.
        known: [N] whether the query was known by then.
        statistics: [N, len(STATISTICS)] of the items as of the last refresh tick; nan where there was none.
    """

    queries: QueryFeatures
    known: list[bool]
    statistics: NDArray[np.float32]


def write_query_states(
    path: Path,
    *,
    events: pa.Table,
    queries: pa.Table,
    spec: FeatureSpec,
    splits: Collection[str] | None = None,
    latest_only: bool = False,
) -> StatesWritten:
    """Write the states of every query as parquet, whole or not at all.

    Args:
        path: parent directories are made.
        events: the ETL's events.parquet.
        queries: the ETL's queries.parquet; a query that only the events name has missing attributes.
        spec: which of its columns are attributes, and how many events a state keeps.
        splits: events of other splits never happened, which is the state a release serves; None takes all.
        latest_only: only the newest state of each query.

    Raises:
        SchemaMismatch, FeaturesError: see `QueryStates.of`.
    """
    columns = StateColumns.of(spec)
    states = QueryStates.of(events, queries=queries, columns=columns, splits=splits)
    places = np.flatnonzero(states.is_last) if latest_only else np.arange(len(states.query))
    num_rows = min(ROWS_A_BATCH, max(1, EVENTS_A_BATCH // max(1, spec.stored_history)))
    portions = np.array_split(places, -(-len(places) // num_rows) or 1)
    write_rows(
        path,
        schema=columns.schema,
        spec=spec,
        batches=(states.rows(portion, history_length=spec.stored_history) for portion in portions),
    )
    return StatesWritten(
        num_rows=len(places), num_queries=len(np.unique(states.query[places])), num_bytes=path.stat().st_size
    )


def historical_features(
    path: Path,
    *,
    query_ids: Sequence[str],
    requested_at_ms: Sequence[int],
    positions: Sequence[int] | None = None,
    ttl: timedelta | None = None,
) -> tuple[QueryFeatures, list[bool]]:
    """Features of N requests as of the requests, by Feast's point-in-time join.

    Args:
        path: states written by `write_query_states`, whole rather than latest only.
        query_ids: [N].
        requested_at_ms: [N] a request sees the events before its millisecond, never those of it.
        positions: [N] for requests that stand for events of the log: the state right before the event at this
            position, which events at the same instant may precede. None goes by the instant.
        ttl: a state older than this is an unknown query's, as in an online store with that ttl.

    Returns:
        The features, and [N] whether the query was known by then: an unknown one has missing features.

    Raises:
        FeaturesError: the lengths differ, or a query has no event at the position.
        SchemaMismatch: the file is no table of states.
    """
    spec = read_spec(path)
    columns = StateColumns.of(spec)
    if not len(query_ids):
        return decode_states({name: [] for name in columns.features}, columns=columns, requested_at_ms=[])
    requests = _requests({QUERY_ID: query_ids}, requested_at_ms, states=path, positions=positions)
    joined = point_in_time_join(requests, features=QUERY_SERVICE, spec=spec, sources=Sources(states=path), ttl=ttl)
    return _decoded(joined, columns=columns, requested_at_ms=requested_at_ms)


def historical_statistics(
    path: Path, *, item_ids: Sequence[str], requested_at_ms: Sequence[int]
) -> NDArray[np.float32]:
    """[N, len(STATISTICS)] of N items as of the last refresh tick finished at each request, by the same join.

    Args:
        path: written by `item_tables.write_item_statistics`.
        item_ids: [N].
        requested_at_ms: [N]; a request at the very instant of a tick knows its statistics.

    Returns:
        The statistics; nan for an unknown item, and before the first tick that was computed by then.
    """
    if not len(item_ids):
        return np.zeros((0, len(STATISTICS)), dtype=np.float32)
    joined = point_in_time_join(
        _requests({ITEM_ID: item_ids}, requested_at_ms),
        features=[f"{ITEM_STATISTICS}:{name}" for name in STATISTICS],
        spec=read_spec(path),
        sources=Sources(item_statistics=path),
    )
    return _statistics(joined)


def historical_items(
    *, facts: Path, statistics: Path, item_ids: Sequence[str], requested_at_ms: Sequence[int]
) -> pa.Table:
    """A row a request with the item's facts and statistics by name, as files hold them; null where unknown by then."""
    sources = Sources(item_facts=facts, item_statistics=statistics)
    requests = _requests({ITEM_ID: item_ids}, requested_at_ms)
    joined = point_in_time_join(requests, features=ITEM_SERVICE, spec=read_spec(facts), sources=sources)
    full = [name for name in joined.column_names if "__" in name]
    return joined.select(full).rename_columns([name.split("__", 1)[1] for name in full])


def training_rows(
    *,
    states: Path,
    statistics: Path,
    query_ids: Sequence[str],
    item_ids: Sequence[str],
    requested_at_ms: Sequence[int],
    positions: Sequence[int] | None = None,
) -> TrainingRows:
    """N training examples, each a query and an item as of one request: the service `training`.

    Args:
        states: as the path of `historical_features`.
        statistics: as the path of `historical_statistics`.
        query_ids: [N].
        item_ids: [N].
        requested_at_ms: [N].
        positions: [N] or none, see `historical_features`.
    """
    spec = read_spec(states)
    columns = StateColumns.of(spec)
    if not len(query_ids):
        queries, known = historical_features(states, query_ids=[], requested_at_ms=[])
        return TrainingRows(queries=queries, known=known, statistics=np.zeros((0, len(STATISTICS)), np.float32))
    requests = _requests({QUERY_ID: query_ids, ITEM_ID: item_ids}, requested_at_ms, states=states, positions=positions)
    joined = point_in_time_join(
        requests,
        features=TRAINING_SERVICE,
        spec=spec,
        sources=Sources(states=states, item_statistics=statistics),
    )
    queries, known = _decoded(joined, columns=columns, requested_at_ms=requested_at_ms)
    return TrainingRows(queries=queries, known=known, statistics=_statistics(joined))


def _requests(
    ids: Mapping[str, Sequence[str]],
    requested_at_ms: Sequence[int],
    *,
    states: Path | None = None,
    positions: Sequence[int] | None = None,
) -> pd.DataFrame:
    """What a join asks with: ids, and the newest instant that each request sees.

    A state holds from a microsecond after its event, and statistics hold from their tick on. So a request sees
    neither the events of its own millisecond nor misses a tick that falls on it.
    """
    lengths = {len(values) for values in (*ids.values(), requested_at_ms, *(() if positions is None else (positions,)))}
    if len(lengths) != 1:
        raise FeaturesError(
            f"expected an instant, and a position if any, for each request; got {sorted(lengths)} of them"
        )
    at_us = np.asarray(requested_at_ms, dtype=np.int64) * MICROSECONDS
    if states is not None and positions is not None:
        at_us = _instants_of(states, query_ids=ids[QUERY_ID], positions=positions) - 1
    instants = pa.array(at_us).cast(INSTANT).to_pandas()
    return pd.DataFrame(
        {**{name: pd.Series(list(values), dtype=object) for name, values in ids.items()}, EVENT_TIMESTAMP: instants}
    )


def _instants_of(path: Path, *, query_ids: Sequence[str], positions: Sequence[int]) -> NDArray[np.int64]:
    """[N] instants in microseconds of the states at these positions."""
    index = pq.read_table(path, columns=[QUERY_ID, POSITION, EVENT_TIMESTAMP])
    at_us = index[EVENT_TIMESTAMP].cast(pa.int64()).to_pylist()
    known = dict(zip(zip(index[QUERY_ID].to_pylist(), index[POSITION].to_pylist(), strict=True), at_us, strict=True))
    try:
        return np.array([known[key] for key in zip(query_ids, positions, strict=True)], dtype=np.int64)
    except KeyError as error:
        query_id, position = error.args[0]
        raise FeaturesError(
            f"expected positions of the states' log; query {query_id!r} has none at {position}"
        ) from None


def _decoded(
    joined: pa.Table, *, columns: StateColumns, requested_at_ms: Sequence[int]
) -> tuple[QueryFeatures, list[bool]]:
    states = {name: joined[f"{QUERY_STATE}__{name}"].to_pylist() for name in columns.features}
    return decode_states(states, columns=columns, requested_at_ms=requested_at_ms)


def _statistics(joined: pa.Table) -> NDArray[np.float32]:
    columns = [
        joined[f"{ITEM_STATISTICS}__{name}"].to_numpy(zero_copy_only=False).astype(np.float32) for name in STATISTICS
    ]
    return np.stack(columns, axis=1)
