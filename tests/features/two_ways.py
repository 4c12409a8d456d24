"""What the tests of test_point_in_time.py compare: every point-in-time feature from the code and from slow_features.py.

Owns the way from a raw log through the real preparation to both, and logs that are generated for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.catalogue import Catalogue
from features.columns import FeatureColumns
from features.context import CONTEXT
from features.dataset import Dataset
from features.events import INSTANT, RAW_EVENTS, RAW_QUERIES, RawTables
from features.labels import ActionLabels, Labels
from features.pairs import ranker_feature_names
from features.prepare import prepare
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.split import SPLITS, InstantSplit, Split
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.transforms import ItemInputs, QueryFeatures, item_inputs, query_inputs, ranker_inputs
from features.vocab import EVENT, FIRST, Vocabularies
from tests.features.slow_features import Event, Item, Request, SlowFeatures

SEQUENCES = (
    *("history_rows", "history_events", "history_values", "history_age_days", "history_gap_days"),
    *("seen_rows", "seen_age_days"),
)
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class RawLog:
    """A source whose tables are at hand."""

    tables: RawTables

    def read(self) -> RawTables:
        return self.tables


@dataclass(frozen=True)
class World:
    """A prepared dataset and, for every event, the row of the raw log that it was."""

    dataset: Dataset
    spec: FeatureSpec
    vocabularies: Vocabularies
    items: ItemInputs
    source_rows: NDArray[np.int64]

    def request(self, place: int) -> Request:
        """The request that an event answers."""
        events = self.dataset.events
        query_id = events.query_ids[int(events.query_of(np.array([place]))[0])]
        return Request(query_id, int(events.at_ms[place]), int(self.source_rows[place]))

    def statistics(self, queries: QueryFeatures) -> ItemStatistics:
        return ItemStatistics.at_requests(
            self.dataset.days(SPLITS), requested_at_ms=np.array(queries.requested_at_ms), tick_ms=self.spec.tick_ms
        )


def world_of(
    directory: Path,
    raw: RawTables,
    *,
    columns: FeatureColumns,
    labels: Labels,
    split: Split,
    tokenizer: TextTokenizer,
    num_items: int | None = None,
) -> World:
    """Prepare a raw log and read it; a catalogue of the first `num_items` alone does not know the later ones."""
    tables = directory / "tables"
    # Events of the future are those that somebody moved there: none is set aside for being after now.
    prepare(
        source=RawLog(raw), labels=labels, split=split, out_dir=tables, name="log", now_at_ms=10**13, progress=False
    )
    dataset = Dataset.read(directory, name="log", columns=columns)
    if num_items is not None:
        items = dataset.items
        cut = replace(
            items,
            catalogue=Catalogue(items.catalogue.item_ids[:num_items]),
            categories={name: values[:num_items] for name, values in items.categories.items()},
            numbers={name: values[:num_items] for name, values in items.numbers.items()},
        )
        dataset = replace(dataset, items=cut, available_days=dataset.available_days[:num_items])
    names = ranker_feature_names(
        retrievers=(), item_categories=columns.item_categories, item_numbers=columns.item_numbers
    )
    text = TextLayout(history_items=0, history_tokens=0, candidate_tokens=1)
    spec = columns.spec(text=text, ranker_features=names)
    vocabularies = dataset.fit_vocabularies(["train"], columns=columns)
    ordered = pq.read_table(tables / "events.parquet").sort_by([("query_id", "ascending"), ("position", "ascending")])
    return World(
        dataset=dataset,
        spec=spec,
        vocabularies=vocabularies,
        items=item_inputs(dataset.items, spec=spec, vocabularies=vocabularies, tokenizer=tokenizer),
        source_rows=ordered["source_row"].to_numpy(),
    )


def slow_of(world: World, raw: RawTables, *, is_positive: Callable[[Event], bool]) -> SlowFeatures:
    """The second implementation, of the same raw log; what does not change with time is taken as it was encoded."""
    log, item_ids = world.dataset.events, world.dataset.items.catalogue.item_ids
    in_ms = raw.events.append_column("at_ms", raw.events["occurred_at"].cast(pa.int64()))
    columns = [in_ms[name].to_pylist() for name in Event._fields]
    offered_at_ms = raw.items["available_from"].cast(pa.int64()).to_pylist()
    offered = dict(zip(raw.items["item_id"].to_pylist(), offered_at_ms, strict=True))
    return SlowFeatures(
        raw=[event for event in map(Event, *columns) if event.item_id in offered],
        is_positive=is_positive,
        split_of=dict(zip(world.source_rows.tolist(), log.splits.tolist(), strict=True)),
        item_ids=item_ids,
        items={
            row: Item(
                categories=world.items.categories[row].tolist(),
                numbers=world.items.numbers[row].tolist(),
                available_at_ms=offered[item_id],
            )
            for row, item_id in enumerate(item_ids, start=FIRST)
        },
        kinds=world.vocabularies.categories[EVENT].values,
        history_length=world.spec.history_length,
        stored_history=world.spec.stored_history,
        session_gap_minutes=world.spec.session_gap_minutes,
        tick_days=world.spec.tick_ms // DAY_MS,
    )


def fast_arrays(
    world: World,
    queries: QueryFeatures,
    candidates: NDArray[np.int64],
    statistics: ItemStatistics | None = None,
) -> Arrays:
    """Every point-in-time feature of N requests and their C candidates, by name."""
    inputs = query_inputs(
        queries, spec=world.spec, vocabularies=world.vocabularies, catalogue=world.dataset.items.catalogue
    )
    made = ranker_inputs(
        inputs,
        candidates,
        np.zeros((*candidates.shape, 0), dtype=np.float32),
        np.zeros((*candidates.shape, 0), dtype=np.int64),
        spec=world.spec,
        items=world.items,
        statistics=statistics or world.statistics(queries),
        special_tokens=(1, 2),
    )
    arrays: Arrays = {name: getattr(inputs, name) for name in SEQUENCES}
    arrays |= {name: inputs.context[:, place] for place, name in enumerate(CONTEXT)}
    arrays |= {name: made.dense[:, :, place] for place, name in enumerate(world.spec.names("ranker", "number"))}
    return arrays


def slow_arrays(world: World, slow: SlowFeatures, requests: list[Request], candidates: NDArray[np.int64]) -> Arrays:
    """The same from the second implementation."""
    sequences = [slow.sequences(request) for request in requests]
    context = [slow.context(request) for request in requests]
    width = max(len(row["seen_rows"]) for row in sequences)
    arrays: Arrays = {}
    for name in SEQUENCES:
        rows = [row[name] + [0] * (width - len(row[name]) if name.startswith("seen") else 0) for row in sequences]
        whole = name in ("history_rows", "history_events", "seen_rows")
        arrays[name] = np.array(rows, dtype=np.int64 if whole else np.float32).reshape(len(rows), -1)
    for name in CONTEXT:
        arrays[name] = np.array([row[name] for row in context], dtype=np.float32)
    ticks = {request.at_ms // world.spec.tick_ms: request.at_ms for request in requests}
    at_tick = {tick: slow.statistics(at_ms) for tick, at_ms in ticks.items()}
    dense = []
    for request, own, rows in zip(requests, context, candidates.tolist(), strict=True):
        statistics = at_tick[request.at_ms // world.spec.tick_ms]
        for row in rows:
            raw = [(name, float(np.float32(statistics[row][name]))) for name in STATISTICS]
            logs = [value if name == "value_mean" else float(np.log1p(value)) for name, value in raw]
            of_query = [own[name] for name in CONTEXT]
            dense.append([*logs, *of_query, *slow.affinities(request, row), *slow.repeats(request, row)])
    table = np.array(dense, dtype=np.float32).reshape(*candidates.shape, -1)
    arrays |= {name: table[:, :, place] for place, name in enumerate(world.spec.names("ranker", "number"))}
    return arrays


def different(one: Arrays, other: Arrays) -> list[str]:
    """Names of the features that are not the same, bit by bit."""
    assert one.keys() == other.keys()
    return [
        name
        for name, array in one.items()
        if array.dtype != other[name].dtype
        or array.shape != other[name].shape
        or np.ascontiguousarray(array).tobytes() != np.ascontiguousarray(other[name]).tobytes()
    ]


START_MS = 9_000 * DAY_MS + 11 * 3_600_000  # in the middle of a day
HOUR_MS = 3_600_000
KINDS = {"view": 1.0, "purchase": 2.0, "skip": 0.0, "return": 0.0}
GENERATED = FeatureColumns(
    query_categories=(),
    query_numbers=(),
    item_categories=("colour",),
    item_numbers=("price",),
    item_texts=(),
    history_length=6,
    stored_history=15,
    category_length=3,
    min_category_count=1,
    session_gap_minutes=180,  # which is how long a pause often is
)
# In the middle of days, so that a day has events of two splits.
CUTS = InstantSplit(ranking="1994-09-20T17:00", validation="1994-09-25T05:00", test="1994-10-01T20:00")


def generated(seed: int, *, num_events: int = 90) -> RawTables:
    """A log of 45 days: ties in time, repeats, corrections, copies, several kinds, and items that nobody describes."""
    generator = np.random.default_rng(seed)
    hours = np.sort(generator.integers(0, 45 * 24, size=num_events)) // 3 * 3  # three hours are often one instant
    rows = [
        (
            f"q{generator.integers(4)}",
            f"i{generator.integers(9)}",  # i8 is in no table
            str(generator.choice(list(KINDS), p=[0.5, 0.2, 0.2, 0.1])),
            float(np.round(generator.normal(3.0, 2.0), 3)),
            START_MS + int(hour) * HOUR_MS + int(generator.integers(3)) // 2,
        )
        for hour in hours
    ]
    rows += [rows[place] for place in generator.integers(0, num_events, size=4)]  # copies
    rows += [(*rows[place][:3], 9.25, rows[place][4]) for place in generator.integers(0, num_events, size=4)]
    columns = list(zip(*rows, strict=True))
    order = generator.permutation(len(rows))  # the file is in no order
    columns = [[column[place] for place in order] for column in columns]
    arrays = [pa.array(column, kind) for column, kind in zip(columns[:4], RAW_EVENTS.types[:4], strict=True)]
    arrays += [pa.array(columns[4], pa.int64()).cast(INSTANT), pa.array(range(len(rows)), pa.int64())]
    offered = [None if place % 3 else START_MS + int(generator.integers(-100, 40)) * DAY_MS for place in range(8)]
    return RawTables(
        events=pa.table(arrays, schema=RAW_EVENTS),
        items=pa.table(
            {
                "item_id": [f"i{place}" for place in range(8)],
                "colour": [["red", "blue", "green"][: place % 4] for place in range(8)],
                "price": [float(place) * 1.1 if place else None for place in range(8)],
                "available_from": pa.array(offered, pa.int64()).cast(INSTANT),
                "source_row": pa.array(range(8), pa.int64()),
            }
        ),
        queries=pa.table([[f"q{place}" for place in range(4)], pa.array(range(4), pa.int64())], schema=RAW_QUERIES),
    )


def generated_world(
    directory: Path, raw: RawTables, *, tokenizer: TextTokenizer, num_items: int | None = None, tick_days: int = 1
) -> World:
    return world_of(
        directory,
        raw,
        columns=replace(GENERATED, tick_days=tick_days),
        labels=ActionLabels(relevance=KINDS),
        split=CUTS,
        tokenizer=tokenizer,
        num_items=num_items,
    )


def slow_of_generated(world: World, raw: RawTables) -> SlowFeatures:
    return slow_of(world, raw, is_positive=lambda event: KINDS[event.event] > 0)


def every_candidate(world: World, num: int) -> NDArray[np.int64]:
    """[num, R]: padding, unknown and all items for each request."""
    return np.tile(np.arange(len(world.dataset.items.catalogue)), (num, 1))


def with_another_future(raw: RawTables, *, after_ms: int, generator: np.random.Generator) -> RawTables:
    """The same log up to an instant; what comes later is deleted, moved, of another item, value or kind, or twice."""
    at_ms = raw.events["occurred_at"].cast(pa.int64()).to_numpy()
    later = at_ms > after_ms
    fate = np.where(later, generator.integers(1, 7, size=len(at_ms)), 0)
    deleted, moved, twice = fate == 1, fate == 2, fate == 6
    at_ms = np.where(
        moved, np.maximum(after_ms + 1, at_ms + generator.integers(-40, 40, size=len(at_ms)) * DAY_MS), at_ms
    )

    def other(name: str, changed: NDArray[np.bool_]) -> pa.Array:
        values = raw.events[name].to_numpy(zero_copy_only=False)
        return pa.array(np.where(changed, generator.permutation(values), values), raw.events.schema.field(name).type)

    changed = pa.table(
        [
            raw.events["query_id"],
            other("item_id", fate == 3),
            other("event", fate == 4),
            other("value", fate == 5),
            pa.array(at_ms, pa.int64()).cast(INSTANT),
            raw.events["source_row"],
        ],
        schema=RAW_EVENTS,
    )
    again = changed.filter(pa.array(twice))
    rows = pa.array(np.arange(again.num_rows) + 10_000_000)
    later_again = pa.array(at_ms[twice] + 1, pa.int64()).cast(INSTANT)
    again = again.set_column(5, "source_row", rows).set_column(4, "occurred_at", later_again)
    return replace(raw, events=pa.concat_tables([changed.filter(pa.array(~deleted)), again]))
