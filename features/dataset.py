"""A prepared dataset in memory: the event log as arrays, and the tables of items and queries.

Owns reading what prepare_data wrote, and the state of a query strictly before an event. Fits nothing by itself except
what `fit_vocabularies` is told to fit on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.errors import FeaturesError
from features.spec import DAY_MS
from features.statistics import ItemDays
from features.text import column_text
from features.transforms import QueryFeatures
from features.vocab import EVENT, FIRST, HISTORY_VALUE, ITEM_ID, NumberScale, Vocabularies, Vocabulary

Value = TypeVar("Value")


@dataclass(frozen=True)
class EventLog:
    """Events grouped by query, in time order within a query (ties by original row).

    Attributes:
        query_ids: [Q] distinct queries.
        offsets: [Q + 1] where each query's events begin and end.
        item_ids: [E] and, like events, values, at_ms, relevance and splits, one entry an event.
        events: kind of each event.
    """

    query_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    item_ids: tuple[str, ...]
    events: tuple[str, ...]
    values: NDArray[np.float64]
    at_ms: NDArray[np.int64]
    relevance: NDArray[np.float64]
    splits: NDArray[np.str_]

    def places(self, splits: Collection[str]) -> NDArray[np.int64]:
        """Events that belong to one of the splits."""
        return np.flatnonzero(np.isin(self.splits, list(splits)))

    def positives(self, splits: Collection[str]) -> NDArray[np.int64]:
        """Events that belong to one of the splits and may be learnt or measured as relevant."""
        return np.flatnonzero(np.isin(self.splits, list(splits)) & (self.relevance > 0))

    def query_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which query each event belongs to."""
        return np.searchsorted(self.offsets, places, side="right") - 1


@dataclass(frozen=True)
class Dataset:
    """The event log, the catalogue with its raw columns, and the queries' attributes."""

    name: str
    events: EventLog
    items: ItemColumns
    query_texts: list[str]
    query_categories: dict[str, list[str]]
    query_numbers: dict[str, list[float]]
    titles: tuple[str, ...]
    item_days: pa.Table
    available_days: NDArray[np.float64]

    @classmethod
    def read(cls, directory: Path, *, name: str, columns: FeatureColumns) -> "Dataset":
        """Read what prepare_data wrote."""
        tables = {}
        for stem in ("events", "items", "queries", "item_days"):
            path = directory / "tables" / f"{stem}.parquet"
            if not path.is_file():
                raise FeaturesError(f"no prepared data at {path}: run scripts/prepare_data.py")
            tables[stem] = pq.read_table(path)
        items, queries = _item_columns(tables["items"], columns), tables["queries"]
        place_of = {query_id: place for place, query_id in enumerate(queries["query_id"].to_pylist())}
        log = _event_log(tables["events"])
        attribute_places = [place_of[query_id] for query_id in log.query_ids]
        return cls(
            name=name,
            events=log,
            items=items,
            query_texts=_texts(queries, columns.query_text, attribute_places),
            query_categories={
                column: _pick(_strings(queries[column]), attribute_places) for column in columns.query_categories
            },
            query_numbers={
                column: _pick(_floats(queries[column]).tolist(), attribute_places) for column in columns.query_numbers
            },
            titles=tuple(items.texts[columns.item_texts[0]] if columns.item_texts else items.catalogue.item_ids),
            item_days=tables["item_days"],
            available_days=_available_days(tables["items"]),
        )

    def before(self, places: NDArray[np.int64], *, length: int | None) -> QueryFeatures:
        """Raw features of the events' queries strictly before each event, histories cut to the newest `length`."""
        return self.states(
            self.events.query_of(places), places, requested_at_ms=self.events.at_ms[places], length=length
        )

    def states(
        self,
        queries: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        requested_at_ms: NDArray[np.int64],
        length: int | None,
    ) -> QueryFeatures:
        """Raw features of N queries that know their events before a place in the log.

        Args:
            queries: [N] which of the log's queries.
            stops: [N] place after the last event that is known.
            requested_at_ms: [N].
            length: newest events that a history keeps; None keeps all.
        """
        events = self.events
        slices = [
            slice(max(int(events.offsets[query]), 0 if length is None else int(stop) - length), int(stop))
            for query, stop in zip(queries, stops, strict=True)
        ]
        return QueryFeatures(
            history_item_ids=[list(events.item_ids[cut]) for cut in slices],
            history_events=[list(events.events[cut]) for cut in slices],
            history_values=[events.values[cut].tolist() for cut in slices],
            history_at_ms=[events.at_ms[cut].tolist() for cut in slices],
            texts=[self.query_texts[query] for query in queries],
            categories=[[column[query] for column in self.query_categories.values()] for query in queries],
            numbers=[[column[query] for column in self.query_numbers.values()] for query in queries],
            requested_at_ms=requested_at_ms.tolist(),
        )

    def event_rows(self) -> NDArray[np.int64]:
        """ItemRow of every event [E], not to be written to."""
        return self._event_rows

    @cached_property
    def _event_rows(self) -> NDArray[np.int64]:
        rows = self.items.catalogue.rows(self.events.item_ids)
        rows.flags.writeable = False
        return rows

    def queries_of_items(self, splits: Collection[str]) -> NDArray[np.int64]:
        """[R] how many queries had each row of the item table in events of the given splits that say yes."""
        places, num_rows = self.events.positives(splits), len(self.items.catalogue)
        pairs = np.unique(self.events.query_of(places) * num_rows + self.event_rows()[places])
        return np.bincount(pairs % num_rows, minlength=num_rows)

    def days(self, splits: Collection[str]) -> ItemDays:
        """Daily item counts from events of the given splits alone."""
        table = self.item_days.filter(pc.is_in(self.item_days["split"], value_set=pa.array(list(splits))))
        return ItemDays(
            rows=self.items.catalogue.rows(table["item_id"].to_pylist()),
            days=table["day"].to_numpy().astype(np.int64),
            counts=table["num_events"].to_numpy().astype(np.float64),
            positives=table["num_positive"].to_numpy().astype(np.float64),
            value_sums=table["value_sum"].to_numpy().astype(np.float64),
            available_days=np.r_[[np.nan] * FIRST, self.available_days],
        )

    def fit_vocabularies(self, splits: Collection[str], *, columns: FeatureColumns) -> Vocabularies:
        """Fit on the events of the given splits: their items, those items' values, those queries' attributes."""
        places = self.events.places(splits)
        seen = {self.events.item_ids[place] for place in places}
        item_places = [place for place, item_id in enumerate(self.items.catalogue.item_ids) if item_id in seen]
        queries = np.unique(self.events.query_of(places)).tolist()
        categories = {
            ITEM_ID: Vocabulary.fit(self.events.item_ids[place] for place in places),
            EVENT: Vocabulary.fit(self.events.events[place] for place in places),
        }
        for name, values in self.items.categories.items():
            flat = (value for place in item_places for value in values[place])
            categories[name] = Vocabulary.fit(flat, min_count=columns.min_category_count)
        for name, column in self.query_categories.items():
            categories[name] = Vocabulary.fit(_pick(column, queries))
        numbers = {name: NumberScale.fit(values[item_places]) for name, values in self.items.numbers.items()}
        numbers[HISTORY_VALUE] = NumberScale.fit(self.events.values[places])
        for name, query_values in self.query_numbers.items():
            numbers[name] = NumberScale.fit(np.array(_pick(query_values, queries), dtype=np.float64))
        return Vocabularies(categories=categories, numbers=numbers)


def _event_log(table: pa.Table) -> EventLog:
    table = table.sort_by([("query_id", "ascending"), ("position", "ascending")])
    query_ids = table["query_id"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, query_ids[1:] != query_ids[:-1]]) if len(query_ids) else np.zeros(0, int)
    return EventLog(
        query_ids=tuple(query_ids[starts].tolist()),
        offsets=np.r_[starts, len(query_ids)].astype(np.int64),
        item_ids=tuple(table["item_id"].to_pylist()),
        events=tuple(table["event"].to_pylist()),
        values=table["value"].to_numpy().astype(np.float64),
        at_ms=table["occurred_at_ms"].to_numpy().astype(np.int64),
        relevance=table["relevance"].to_numpy().astype(np.float64),
        splits=np.array(table["split"].to_pylist(), dtype=np.str_),
    )


def _texts(queries: pa.Table, column: str, places: list[int]) -> list[str]:
    if not column:
        return [""] * len(places)
    return _pick([column_text(value) for value in queries[column].to_pylist()], places)


def _available_days(items: pa.Table) -> NDArray[np.float64]:
    """[I] day from which each item can be had, nan where nobody says."""
    at_ms = items["available_from"].cast(pa.int64())
    return np.floor(_floats(at_ms) / DAY_MS)


def _item_columns(items: pa.Table, columns: FeatureColumns) -> ItemColumns:
    texts = {name: [column_text(value) for value in items[name].to_pylist()] for name in columns.item_texts}
    return ItemColumns(
        catalogue=Catalogue(item_ids=tuple(items["item_id"].to_pylist())),
        categories={name: [_values(value) for value in items[name].to_pylist()] for name in columns.item_categories},
        numbers={name: _floats(items[name]) for name in columns.item_numbers},
        texts=texts,
    )


def _values(value: str | list[str] | None) -> list[str]:
    return ([value] if value else []) if value is None or isinstance(value, str) else value


def _pick(values: Sequence[Value], places: Sequence[int]) -> list[Value]:
    return [values[place] for place in places]


def _strings(column: pa.ChunkedArray) -> list[str]:
    return [value or "" for value in column.to_pylist()]


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return values
