"""How far test lies from train, feature by feature: raw columns as they stand, derived ones as models see them.

Owns which events are compared. The measures are evaluation/drift.py's, the derived features those of
features/transforms.py and features/statistics.py, point in time.

Shapes: R sampled events, those of train first.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.drift import Drift, jensen_shannon, kolmogorov_smirnov
from features.catalogue import Catalogue
from features.columns import FeatureColumns
from features.context import EPOCH_WEEKDAY, HOUR_MS
from features.spec import DAY_MS, TextLayout
from features.transforms import QueryFeatures, query_inputs
from features.vocab import EVENT, Vocabularies, Vocabulary
from lifecycle.data_report.columns import is_missing
from lifecycle.data_report.html import share, shown
from lifecycle.data_report.item_ticks import statistics_of
from lifecycle.data_report.log import Log

RAW_EVENTS = 20_000  # sampled a side; medians and shares are then within 0.4 points of the whole
DERIVED_EVENTS = 1_000  # a side; a derived feature costs a history of up to 1,000 events
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NOTHING = "(missing)"
COLUMNS = ["feature", "origin", "measure", "value", "random_split", "num_train", "num_test", "moved"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Events of both sides.

    Attributes:
        places: [R] in the log.
        in_train: [R].
    """

    places: NDArray[np.int64]
    in_train: NDArray[np.bool_]

    @property
    def has_both(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.in_train.any() and not self.in_train.all())


def draw(log: Log, *, num: int, generator: np.random.Generator) -> Sample:
    """At most `num` events of train and as many of test, all of a side that has no more."""
    sides = []
    for split in ("train", "test"):
        places = np.flatnonzero(log.of_split(split))
        sides.append(np.sort(generator.choice(places, num, replace=False)) if len(places) > num else places)
    in_train = np.repeat([True, False], [len(side) for side in sides])
    return Sample(places=np.concatenate(sides), in_train=in_train)


def raw_drift(
    log: Log, sample: Sample, *, tables_dir: Path, columns: FeatureColumns, generator: np.random.Generator
) -> pd.DataFrame:
    """One row a raw column, with COLUMNS: the event's own, the clock's, its item's and its query's."""
    at_ms, rows = log.at_ms[sample.places], []
    values = pa.chunked_array([pa.array(log.values[sample.places])])
    rows.append(_numbers("value", "event", values, sample, generator))
    if len(log.kinds) > 1:
        rows.append(
            _categories(
                "event", "event", _strings(log.kinds.take(sample.places).codes, log.kinds.values), sample, generator
            )
        )
    hours, weekdays = (at_ms // HOUR_MS) % 24, (at_ms // DAY_MS + EPOCH_WEEKDAY) % 7
    rows.append(_categories("hour", "clock", _strings(hours, [f"{hour} h" for hour in range(24)]), sample, generator))
    rows.append(_categories("weekday", "clock", _strings(weekdays, WEEKDAYS), sample, generator))
    for table, key, coded, categories, numbers in (
        ("items", "item_id", log.items, columns.item_categories, columns.item_numbers),
        ("queries", "query_id", log.queries, columns.query_categories, columns.query_numbers),
    ):
        if not categories and not numbers:
            continue
        content = pq.read_table(tables_dir / f"{table}.parquet", columns=[key, *dict.fromkeys((*categories, *numbers))])
        place_of = pc.index_in(pa.array(coded.values, pa.string()), value_set=content[key].combine_chunks())
        content = content.take(place_of.take(pa.array(coded.codes[sample.places])))
        origin = "item" if table == "items" else "query"
        rows += [_categories(name, origin, content[name], sample, generator) for name in categories]
        rows += [_numbers(name, origin, content[name].cast(pa.float64()), sample, generator) for name in numbers]
    return pd.DataFrame(rows, columns=COLUMNS)


def derived_drift(
    log: Log, sample: Sample, *, tables_dir: Path, columns: FeatureColumns, generator: np.random.Generator
) -> pd.DataFrame:
    """One row a derived feature, with COLUMNS: the query's context just before the event, its item at the last tick."""
    # Without columns of the tables, which raw_drift compares as they stand.
    bare = replace(
        columns,
        query_categories=(),
        query_numbers=(),
        item_categories=(),
        item_numbers=(),
        item_texts=(),
        query_text="",
    )
    spec = bare.spec(text=TextLayout(), ranker_features=())
    catalogue = Catalogue(item_ids=log.items.values)
    inputs = query_inputs(
        before(log, sample.places, length=spec.stored_history),
        spec=spec,
        vocabularies=Vocabularies(categories={EVENT: Vocabulary(values=log.kinds.values)}),
        catalogue=catalogue,
    )
    rows = []
    names = spec.names("query", "number", "history", "request")
    origins = {feature.name: feature.origin for feature in spec.features if feature.side == "query"}
    for column, name in enumerate(names):
        rows.append(_floats(name, origins[name], inputs.context[:, column].astype(np.float64), sample, generator))
    statistics, kept = statistics_of(
        log, sample.places, tables_dir=tables_dir, tick_days=columns.tick_days, generator=generator
    )
    on_ticks = Sample(places=sample.places[kept], in_train=sample.in_train[kept])
    for column, name in enumerate(spec.names("item", "number", "tick")):
        rows.append(_floats(f"item {name}", "tick", statistics[:, column].astype(np.float64), on_ticks, generator))
    return pd.DataFrame(rows, columns=COLUMNS)


def ranked(*tables: pd.DataFrame, calendar: bool) -> pd.DataFrame:
    """All features, those first that exceed their random split by most; without those that cannot be compared.

    Args:
        tables: of raw_drift and derived_drift.
        calendar: whether instants are those of a clock; if not, an hour or a weekday is nothing to compare.
    """
    both = pd.concat([table for table in tables if len(table)] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    both = both[both["value"].notna() & (calendar | ~both["origin"].isin(("clock", "request")))]
    return both.assign(excess=both["value"] - both["random_split"]).sort_values(
        ["excess", "feature"], ascending=[False, True], ignore_index=True
    )


def before(log: Log, places: NDArray[np.int64], *, length: int) -> QueryFeatures:
    """Raw features of the events' queries strictly before each event."""
    starts = log.starts[places]
    cuts = [
        slice(max(int(start), int(place) - length), int(place)) for start, place in zip(starts, places, strict=True)
    ]
    items, kinds = (np.array(coded.values, dtype=object) for coded in (log.items, log.kinds))
    return QueryFeatures(
        history_item_ids=[items[log.items.codes[cut]].tolist() for cut in cuts],
        history_events=[kinds[log.kinds.codes[cut]].tolist() for cut in cuts],
        history_values=[log.values[cut].tolist() for cut in cuts],
        history_at_ms=[log.at_ms[cut].tolist() for cut in cuts],
        texts=[""] * len(places),
        categories=[[] for _ in cuts],
        numbers=[[] for _ in cuts],
        requested_at_ms=log.at_ms[places].tolist(),
    )


def _strings(codes: NDArray[np.integer], values: tuple[str, ...] | list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string()).take(pa.array(codes))])


def _numbers(
    name: str, origin: str, column: pa.ChunkedArray, sample: Sample, generator: np.random.Generator
) -> tuple[object, ...]:
    return _floats(name, origin, column.to_numpy().astype(np.float64), sample, generator)


def _floats(
    name: str, origin: str, values: Floats, sample: Sample, generator: np.random.Generator
) -> tuple[object, ...]:
    finite = np.isfinite(values)
    values, in_train = values[finite], sample.in_train[finite]
    drift = kolmogorov_smirnov(values, in_first=in_train, generator=generator)
    moved = "" if np.isnan(drift.value) else _widest_gap(values, in_train)
    return _row(name, origin, "KS", drift, in_train, moved)


def _categories(
    name: str, origin: str, column: pa.ChunkedArray, sample: Sample, generator: np.random.Generator
) -> tuple[object, ...]:
    missing = is_missing(column)
    rows = np.arange(len(column))
    if pa.types.is_list(column.type):
        filled = column.combine_chunks()
        rows = np.r_[pc.list_parent_indices(filled).to_numpy(), np.flatnonzero(missing)]
        texts = pc.list_flatten(filled).to_pylist() + [NOTHING] * int(missing.sum())
    else:
        texts = pc.if_else(pa.array(missing), NOTHING, column.cast(pa.string())).to_pylist()
    values = sorted({NOTHING if text is None else text for text in texts})
    code_of = {value: code for code, value in enumerate(values)}
    codes = np.array([code_of[NOTHING if text is None else text] for text in texts], dtype=np.int64)
    drift = jensen_shannon(codes, rows=rows, in_first=sample.in_train, generator=generator)
    moved = "" if np.isnan(drift.value) else _most_moved(codes, values, sample.in_train[rows])
    return _row(name, origin, "JS", drift, sample.in_train, moved)


def _row(
    name: str, origin: str, measure: str, drift: Drift, in_train: NDArray[np.bool_], moved: str
) -> tuple[object, ...]:
    num_train = int(in_train.sum())
    return (name, origin, measure, drift.value, drift.random_split, num_train, len(in_train) - num_train, moved)


def _widest_gap(values: Floats, in_train: NDArray[np.bool_]) -> str:
    """The number at or below which the shares of the two sides differ by most: where the measure was taken."""
    numbers = np.unique(values)
    train, test = (
        np.searchsorted(np.sort(values[side]), numbers, side="right") / side.sum() for side in (in_train, ~in_train)
    )
    most = int(np.argmax(np.abs(test - train)))
    return f"at most {numbers[most]:.4g}: {share(train[most])} → {share(test[most])}"


def _most_moved(codes: NDArray[np.int64], values: list[str], in_train: NDArray[np.bool_]) -> str:
    """The value whose share changed by most."""
    train, test = (
        np.bincount(codes[side], minlength=len(values)) / max(int(side.sum()), 1) for side in (in_train, ~in_train)
    )
    most = int(np.argmax(np.abs(test - train)))
    return f"{shown(values[most], length=30)}: {share(train[most])} → {share(test[most])}"
