"""What the online store costs: reads of one query, and rounds of new states by each of Feast's ways to write them.

Owns the made-up log and the measuring. The log is as dense as MovieLens-100K's: what costs is the number of queries and
the length of their histories, not what the events are.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import FeatureColumns
from features.spec import TextLayout
from features.stores.feast_process import own_duckdb, quiet_feast
from features.stores.feast_repository import open_repository
from features.stores.feature_files import write_rows
from features.stores.materialize import STATES, materialize, remove_store
from features.stores.online_settings import OnlineSettings
from features.stores.online_store import OnlineStore
from features.stores.query_states import QueryStates
from features.stores.state_rows import EVENT_TIMESTAMP, StateColumns
from features.stores.state_writer import StateWriter
from features.stores.store_versions import current_version

SPEC = FeatureColumns(
    query_categories=("gender", "occupation"),
    query_numbers=("age",),
    item_categories=(),
    item_numbers=(),
    item_texts=(),
).spec(text=TextLayout(), ranker_features=())
COLUMNS = StateColumns.of(SPEC)
START_MS, SECOND_MS = 946_684_800_000, 1_000
WARM_UP = 50

Seconds = tuple[float, float]  # of the clock on the wall, and of the processor for this process


@dataclass(frozen=True)
class Cost:
    """One measurement.

    Attributes:
        n: how often it was taken.
        cpu_ms: median of this process's own time, which what else runs on the machine stretches less than the rest.
    """

    store: str
    what: str
    history: int
    n: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float


def store_costs(
    online: OnlineSettings,
    *,
    work_dir: Path,
    num_queries: int,
    histories: Sequence[int],
    round_sizes: Sequence[int],
    num_reads: int,
    num_rounds: int,
) -> Iterator[Cost]:
    """Measure one kind of store.

    Args:
        online: where the values lie.
        work_dir: made; the stores in it are removed.
        num_queries: in the store.
        histories: events of a query, each measured in turn.
        round_sizes: how many queries have a new event in a round, each in turn.
        num_reads: of one query, one after the other.
        num_rounds: of a size; each is written in each way.
    """
    for history in histories:
        states = made_states(num_queries=num_queries, num_events=history + num_rounds)
        with _store(states, history=history, directory=work_dir / "reads", online=online) as directory:
            seconds = _reads(OnlineStore.open(directory), num_queries=num_queries, num_reads=num_reads)
            yield _cost(online, "read of one query", history, seconds)
        for size in round_sizes:
            rounds = [_rows(states, history + number, size=size) for number in range(num_rounds)]
            for name, write in (("write_to_online_store", _write), ("materialize_incremental", _incremental)):
                with _store(states, history=history, directory=work_dir / name, online=online) as directory:
                    yield _cost(online, f"{name} of {size}", history, write(rounds, directory))


def made_states(*, num_queries: int, num_events: int) -> QueryStates:
    """States of a log in which every query has an event a second."""
    query = np.repeat(np.arange(num_queries), num_events)
    place = np.tile(np.arange(num_events), num_queries)
    names = [f"q{number}" for number in range(num_queries)]
    events = pa.table(
        {
            "query_id": [names[number] for number in query],
            "item_id": [str(number) for number in (query * 7 + place * 13) % 1_682],
            "event": ["rating"] * len(query),
            "value": 1.0 + (query + place) % 5,
            "occurred_at_ms": START_MS + place * SECOND_MS,
            "position": pa.array(place, pa.int32()),
            "split": ["train"] * len(query),
        }
    )
    attributes = {"gender": ["F"] * num_queries, "occupation": ["writer"] * num_queries, "age": [30.0] * num_queries}
    return QueryStates.of(events, queries=pa.table({"query_id": names, **attributes}), columns=COLUMNS)


def _rows(states: QueryStates, position: int, *, size: int | None = None) -> pa.RecordBatch:
    places = np.flatnonzero(states.position == position)
    return states.rows(places[:size], history_length=SPEC.stored_history)


@contextmanager
def _store(states: QueryStates, *, history: int, directory: Path, online: OnlineSettings) -> Iterator[Path]:
    """A store in which each query has its state after `history` events."""
    path = directory.with_suffix(".parquet")
    write_rows(path, schema=COLUMNS.schema, spec=SPEC, batches=[_rows(states, history - 1)])
    materialize(directory, states=path, online=online)
    try:
        yield directory
    finally:
        remove_store(directory)


def _reads(store: OnlineStore, *, num_queries: int, num_reads: int) -> list[Seconds]:
    def read(number: int) -> None:
        store.read([f"q{number % num_queries}"], requested_at_ms=[0])

    return [_seconds(partial(read, number)) for number in range(WARM_UP + num_reads)][WARM_UP:]


def _write(rounds: Sequence[pa.RecordBatch], directory: Path) -> list[Seconds]:
    with StateWriter.open(directory) as writer:
        return [_seconds(partial(writer.write, rows)) for rows in rounds]


def _incremental(rounds: Sequence[pa.RecordBatch], directory: Path) -> list[Seconds]:
    """Feast's own way, at its best: its file holds the round's rows alone, and it reads those since it last ended."""
    version = current_version(directory)
    store = open_repository(version).store

    def materialise(rows: pa.RecordBatch) -> None:
        write_rows(version / STATES, schema=COLUMNS.schema, spec=SPEC, batches=[rows])
        with quiet_feast(), own_duckdb():
            store.materialize_incremental(end_date=pc.max(rows[EVENT_TIMESTAMP]).as_py())

    return [_seconds(partial(materialise, rows)) for rows in rounds]


def _seconds(call: Callable[[], object]) -> Seconds:
    started, started_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - started_cpu


def _cost(online: OnlineSettings, what: str, history: int, seconds: list[Seconds]) -> Cost:
    wall_ms, cpu_ms = np.array(seconds).T * 1_000
    p50, p99 = np.percentile(wall_ms, [50, 99])
    return Cost(
        online.type,
        what,
        history,
        n=len(seconds),
        p50_ms=float(p50),
        p99_ms=float(p99),
        cpu_ms=float(np.median(cpu_ms)),
    )
