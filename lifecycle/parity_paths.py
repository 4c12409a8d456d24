"""The two paths of a replay: what training makes of an event, and what serving makes of it.

Owns both walks from an event to arrays and lists. Offline: the log in memory, item aggregates as of each event's own
last tick. Online: states materialised into the online store one after the other, the request's tensors, and the release
at the delta of the tick, opened from disk.

Shapes: N events of a round or a batch, C candidates of each, K retrievers, T ticks, R rows of the item table.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.dataset import Dataset
from features.spec import FeatureSpec
from features.statistics import STATISTICS, ItemStatistics
from features.stores.feature_files import write_rows
from features.stores.materialize import materialize
from features.stores.online_store import OnlineStore
from features.stores.query_states import QueryStates
from features.stores.state_rows import BEFORE_ALL, QUERY_ID, StateColumns
from features.stores.state_writer import StateWriter
from features.transforms import QueryFeatures, ranker_inputs
from lifecycle.parity_requests import Asked
from lifecycle.refresh import item_days, refresh_release
from lifecycle.rewound import rewind
from serving.models import Models
from serving.pipeline import Pipeline
from serving.release import Release
from serving.retrieval import Stage1
from serving.settings import PipelineSettings
from serving.wire import MAX_BATCH, decode_request, encode_request

Arrays = dict[str, NDArray[Any]]

OFFLINE_BATCH = 256
TICKS_A_PART = 16
OF_ANY_WIDTH = ("seen_rows", "seen_age_days")


@dataclass(frozen=True)
class Lists:
    """How whole lists are made."""

    models: Models
    settings: PipelineSettings
    k: int = 10


@dataclass(frozen=True)
class OfflinePath:
    """What training does.

    Attributes:
        stage1: with item aggregates at every tick of the replay.
    """

    dataset: Dataset
    stage1: Stage1

    @classmethod
    def open(cls, dataset: Dataset, *, stage1: Stage1, ticks: NDArray[np.int64], path: Path) -> Self:
        """Compute aggregates at ascending ticks into a file, which may be larger than memory."""
        days = item_days(dataset, catalogue=stage1.catalogue)
        shape = (len(ticks), days.num_rows, len(STATISTICS))
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(ticks), TICKS_A_PART):
            part = slice(start, start + TICKS_A_PART)
            made = ItemStatistics.at_requests(days, requested_at_ms=ticks[part], tick_ms=stage1.spec.tick_ms)
            values[part] = made.values
        statistics = ItemStatistics(ticks_at_ms=ticks, values=np.asarray(values))
        return cls(dataset=dataset, stage1=replace(stage1, statistics=statistics))

    def arrays(self, asked: Asked) -> Arrays:
        """What the towers and the ranker read."""
        parts = np.array_split(np.arange(len(asked)), -(-len(asked) // OFFLINE_BATCH))
        return _joined([_arrays(self._features(one), one, stage1=self.stage1) for one in map(asked.take, parts)])

    def lists(self, asked: Asked, *, release: Release, how: Lists) -> Arrays:
        """Whole lists for a batch of one tick, as a release with this stage 1 would give them."""
        statistics = self.stage1.statistics
        as_of_tick = self.stage1.as_of(statistics.at(int(statistics.ticks(asked.at_ms)[0])))
        return _lists(self._features(asked), release=replace(release, stage1=as_of_tick), how=how)

    def _features(self, asked: Asked) -> QueryFeatures:
        return self.dataset.before(asked.places, length=None)


class OnlinePath:
    """What serving does. Open it with `open`."""

    def __init__(
        self,
        *,
        states: QueryStates,
        writer: StateWriter,
        store: OnlineStore,
        before_all: Release,
        deltas: dict[int, int],
    ) -> None:
        self._states, self._writer, self._store = states, writer, store
        # Each delta's release is made when it is asked: all of them at once, with an index each, would fill the memory.
        self._before_all, self._deltas, self._newest = before_all, deltas, before_all
        codes = states.attributes[QUERY_ID].to_pylist()
        # Each query's first state is the one before all its events, which follow by position.
        self._first = dict(zip(codes, np.searchsorted(states.query, np.arange(len(codes))).tolist(), strict=True))

    @classmethod
    @contextmanager
    def open(
        cls, dataset: Dataset, *, data_dir: Path, release_dir: Path, ticks: NDArray[np.int64], work_dir: Path
    ) -> Iterator[Self]:
        """Write a store that knows no event, the release as it was before the log, and its delta at each tick.

        Args:
            dataset: its catalogue; the log itself is read anew.
            data_dir: what prepare_data wrote; states and deltas are made of it.
            release_dir: of the release that is replayed.
            ticks: [T] ascending.
            work_dir: gets the store, the release and its deltas.
        """
        names = ("events", "queries", "item_days")
        events, queries, item_days_table = (pq.read_table(data_dir / "tables" / f"{name}.parquet") for name in names)
        before_all, deltas = _refreshed(
            replace(dataset, item_days=item_days_table),
            release_dir=release_dir,
            ticks=ticks,
            target=work_dir / "release",
        )
        spec, store_dir = before_all.spec, work_dir / "online_store"
        columns = StateColumns.of(spec)
        states = QueryStates.of(events, queries=queries, columns=columns)
        first_rows = states.rows(np.flatnonzero(states.position == BEFORE_ALL), history_length=spec.stored_history)
        path = work_dir / "before_all.parquet"
        write_rows(path, schema=columns.schema, spec=spec, batches=[first_rows])
        materialize(store_dir, states=path)
        with StateWriter.open(store_dir) as writer:
            store = OnlineStore.open(store_dir)
            yield cls(states=states, writer=writer, store=store, before_all=before_all, deltas=deltas)

    def publish(self, asked: Asked) -> None:
        """Let the store hold the state of each query right before its event."""
        first = np.array([self._first[query_id] for query_id in asked.query_ids])
        spec = self._before_all.spec
        self._writer.write(self._states.rows(first + asked.positions, history_length=spec.stored_history))

    def batches(self, asked: Asked) -> Iterator[NDArray[np.int64]]:
        """Places in `asked` of requests that a server would answer together: of one tick, at most MAX_BATCH."""
        ticks = self._ticks(asked)
        for tick in np.unique(ticks):
            of_tick = np.flatnonzero(ticks == tick)
            yield from (of_tick[start : start + MAX_BATCH] for start in range(0, len(of_tick), MAX_BATCH))

    def arrays(self, asked: Asked) -> Arrays:
        """What the towers and the ranker read."""
        features, batches, parts = self._read(asked), list(self.batches(asked)), []
        for batch in batches:
            one, release = asked.take(batch), self.release(asked.take(batch))
            sent = _through_the_wire(_picked(features, batch), spec=release.spec)
            parts.append(_arrays(sent, one, stage1=release.stage1))
        in_order = np.argsort(np.concatenate(batches))
        return {name: array[in_order] for name, array in _joined(parts).items()}

    def lists(self, asked: Asked, *, how: Lists) -> Arrays:
        """Whole lists for a batch."""
        release = self.release(asked)
        return _lists(_through_the_wire(self._read(asked), spec=release.spec), release=release, how=how)

    def release(self, asked: Asked) -> Release:
        """At the delta of a batch's tick."""
        number = self._deltas[int(self._ticks(asked)[0])]
        if number != self._newest.delta:
            self._newest = self._before_all.with_delta(self._before_all.deltas.read(number))
        return self._newest

    def _read(self, asked: Asked) -> QueryFeatures:
        return self._store.read(asked.query_ids, requested_at_ms=asked.at_ms.tolist())[0]

    def _ticks(self, asked: Asked) -> NDArray[np.int64]:
        tick_ms = self._before_all.spec.tick_ms
        return asked.at_ms // tick_ms * tick_ms


def _refreshed(
    dataset: Dataset, *, release_dir: Path, ticks: NDArray[np.int64], target: Path
) -> tuple[Release, dict[int, int]]:
    """The release as it was before the log, and which delta is each tick's, every one written as a refresh does."""
    built = Release.open(release_dir, delta=0)
    days, tick_ms = item_days(dataset, catalogue=built.stage1.catalogue), built.spec.tick_ms
    before_all = ItemStatistics.at_requests(days, requested_at_ms=ticks[:1] - tick_ms, tick_ms=tick_ms)
    rewound = rewind(release_dir, target, statistics=before_all)
    release, deltas = rewound, {}
    for tick in ticks.tolist():
        release = refresh_release(release, days=days, tick_at_ms=tick)
        deltas[tick] = release.delta
    return rewound, deltas


def _arrays(queries: QueryFeatures, asked: Asked, *, stage1: Stage1) -> Arrays:
    inputs = stage1.query_inputs(queries)
    made = ranker_inputs(
        inputs,
        asked.candidates.rows,
        asked.candidates.scores,
        asked.candidates.ranks,
        spec=stage1.spec,
        items=stage1.items,
        statistics=stage1.statistics,
        special_tokens=stage1.special_tokens,
    )
    arrays: Arrays = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return arrays | {"ranker_tokens": made.tokens, "ranker_dense": made.dense}


def _lists(queries: QueryFeatures, *, release: Release, how: Lists) -> Arrays:
    found = Pipeline(release=release, models=how.models, settings=how.settings).recommend(queries, k=how.k)
    item_ids = np.full((len(queries), how.k), "", dtype=object)
    scores = np.full((len(queries), how.k), -np.inf, dtype=np.float32)
    probabilities = np.full((len(queries), how.k), np.nan, dtype=np.float32)
    for n, ids in enumerate(found.item_ids):
        item_ids[n, : len(ids)], scores[n, : len(ids)] = ids, found.scores[n]
        probabilities[n, : len(ids)] = found.probabilities[n]
    return {"recommended_ids": item_ids, "recommended_scores": scores, "recommended_probabilities": probabilities}


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Parts one after the other; what is as wide as the longest history of a part gets zeros behind."""
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        width = max(array.shape[1] for array in arrays) if name in OF_ANY_WIDTH else 0
        joined[name] = np.concatenate([_widened(array, width) if width else array for array in arrays])
    return joined


def _widened(array: NDArray[Any], width: int) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _through_the_wire(queries: QueryFeatures, *, spec: FeatureSpec) -> QueryFeatures:
    """What the server decodes of what a client encodes."""
    tensors = encode_request(queries, k=1, with_candidates=False, spec_hash=spec.hash)
    return decode_request(tensors, spec=spec).queries


def _picked(queries: QueryFeatures, places: NDArray[np.int64]) -> QueryFeatures:
    return QueryFeatures(
        **{field.name: [getattr(queries, field.name)[place] for place in places] for field in fields(queries)}
    )
