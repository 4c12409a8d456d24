"""Items as rows of Feast's offline store: their facts, and their statistics at each refresh tick.

Owns the columns of both files, generated from the FeatureSpec, and writing them. Knows nothing of joins, which are
offline_store.py's.

    item_facts        item_id, one column a raw column of the dataset (a category as a JSON list of its values)
    item_statistics   item_id, one float32 column a statistic: statistics.py
    both              event_timestamp and created

Time. A catalogue has no history: its facts hold from the instant that their writer names. The statistics of a tick
hold from the tick on and know the events before it; `created` is when they were computed, and joins for requests
before that see the tick before.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.catalogue import Catalogue, ItemColumns
from features.errors import FeaturesError
from features.spec import DAY_MS, FeatureSpec
from features.statistics import STATISTICS, ItemDays
from features.stores.feature_files import write_rows
from features.stores.state_rows import CREATED, EVENT_TIMESTAMP, INSTANT
from features.vocab import FIRST, ITEM_ID

INSTANTS = ((EVENT_TIMESTAMP, INSTANT), (CREATED, INSTANT))


@dataclass(frozen=True)
class FactColumns:
    """Raw columns of an item; one that is a category and a text as well stands among the categories."""

    categories: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[str, ...]

    def __post_init__(self) -> None:
        names, reserved = self.names, (ITEM_ID, EVENT_TIMESTAMP, CREATED)
        wrong = sorted({name for name in names if names.count(name) > 1 or name in reserved or not name.isidentifier()})
        if wrong:
            raise FeaturesError(
                f"item facts need distinct names that are identifiers and none of {', '.join(reserved)}; "
                f"got {', '.join(map(repr, wrong))}"
            )

    @classmethod
    def of(cls, spec: FeatureSpec) -> Self:
        """The columns that features of a spec are made of."""
        categories = spec.names("item", "category", "column")
        return cls(
            categories=categories,
            texts=tuple(name for name in spec.names("item", "text", "column") if name not in categories),
            numbers=spec.names("item", "number", "column"),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return (*self.categories, *self.texts, *self.numbers)

    @property
    def schema(self) -> pa.Schema:
        """Of a table of item facts."""
        return pa.schema(
            [
                (ITEM_ID, pa.string()),
                *((name, pa.float64() if name in self.numbers else pa.string()) for name in self.names),
                *INSTANTS,
            ]
        )


def statistics_schema(spec: FeatureSpec) -> pa.Schema:
    """Of a table of item statistics; FeaturesError if the spec has other ones than this code computes."""
    names = spec.names("item", "number", "tick")
    if names != STATISTICS:
        raise FeaturesError(
            f"expected a spec with the statistics {', '.join(STATISTICS)}; got {', '.join(names) or 'none'}; "
            "train again with the code that serves"
        )
    return pa.schema([(ITEM_ID, pa.string()), *((name, pa.float32()) for name in names), *INSTANTS])


def write_item_facts(path: Path, *, items: ItemColumns, spec: FeatureSpec, known_at_ms: int = 0) -> None:
    """Write the facts of every item as parquet, whole or not at all; they hold from `known_at_ms` on."""
    columns = FactColumns.of(spec)
    num = len(items.catalogue.item_ids)
    instants = _instants(np.full(num, known_at_ms))
    arrays = [
        pa.array(items.catalogue.item_ids, pa.string()),
        *(
            pa.array([json.dumps(list(values), ensure_ascii=False) for values in items.categories[name]], pa.string())
            for name in columns.categories
        ),
        *(pa.array(items.texts[name], pa.string()) for name in columns.texts),
        *(pa.array(items.numbers[name], pa.float64()) for name in columns.numbers),
        instants,
        instants,
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=columns.schema)
    write_rows(path, schema=columns.schema, spec=spec, batches=[batch])


def write_item_statistics(
    path: Path,
    *,
    days: ItemDays,
    catalogue: Catalogue,
    spec: FeatureSpec,
    ticks_at_ms: NDArray[np.int64],
    computed_at_ms: NDArray[np.int64] | None = None,
) -> None:
    """Write a row an item and tick as parquet, whole or not at all.

    Args:
        path: parent directories are made.
        days: of the items of `catalogue`.
        catalogue: which item stands in which row.
        spec: names the statistics, and how far apart ticks are.
        ticks_at_ms: [T] the ticks; `ticks_of` has those that requests need.
        computed_at_ms: [T] when each tick's statistics were computed; None: at the tick.

    Raises:
        FeaturesError: an instant is no tick of the spec's, or the spec has other statistics.
    """
    schema = statistics_schema(spec)
    wrong = ticks_at_ms[ticks_at_ms % spec.tick_ms != 0]
    if len(wrong):
        raise FeaturesError(
            f"expected ticks at multiples of {spec.tick_ms} ms; got {wrong[0]}; round requests down to ticks "
            "with features.stores.item_tables.ticks_of"
        )
    created_at_ms = ticks_at_ms if computed_at_ms is None else computed_at_ms
    item_ids = pa.array(catalogue.item_ids, pa.string())

    def batches() -> Iterator[pa.RecordBatch]:
        for tick_at_ms, created in zip(ticks_at_ms, created_at_ms, strict=True):
            values = days.as_of(int(tick_at_ms // DAY_MS))[FIRST:]
            instants = [_instants(np.full(len(values), at_ms)) for at_ms in (tick_at_ms, created)]
            yield pa.RecordBatch.from_arrays([item_ids, *map(pa.array, values.T.copy()), *instants], schema=schema)

    write_rows(path, schema=schema, spec=spec, batches=batches())


def ticks_of(requested_at_ms: NDArray[np.int64], *, spec: FeatureSpec) -> NDArray[np.int64]:
    """The last tick finished at each of the requests, each tick once."""
    return np.unique(requested_at_ms // spec.tick_ms) * spec.tick_ms


def _instants(at_ms: NDArray[np.int64]) -> pa.Array:
    return pa.array(at_ms * 1_000).cast(INSTANT)
