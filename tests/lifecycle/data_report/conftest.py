"""Datasets by hand, prepared by the real `prepare`, for every test of the data report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features.columns import FeatureColumns
from features.events import RAW_EVENTS, RAW_ITEMS, RAW_QUERIES, RawTables
from features.labels import Labels, RatingLabels
from features.prepare import prepare
from features.spec import DAY_MS
from features.split import LeaveOneOut, Split
from lifecycle.data_report.log import Log

FIRST_AT_MS = 20_000 * DAY_MS  # 2024-10-04
NOW_AT_MS = 40_000 * DAY_MS


@dataclass(frozen=True)
class TableSource:
    """A source whose tables are given."""

    tables: RawTables

    def read(self) -> RawTables:
        return self.tables


def _event(row: Sequence[Any], place: int) -> dict[str, Any]:
    """(query, item, day[, kind[, value]]) as a raw event; a day may have a fraction."""
    query_id, item_id, day, kind, value = (*row, *("rating", 3.0)[len(row) - 3 :])
    at_ms = FIRST_AT_MS + round(day * DAY_MS)
    return {
        "query_id": query_id,
        "item_id": item_id,
        "event": kind,
        "value": value,
        "occurred_at": at_ms,
        "source_row": place,
    }


def _with_columns(ids: Sequence[str], name: str, columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    rows = [{name: one, "source_row": place} for place, one in enumerate(ids)]
    table = pa.Table.from_pylist(rows, schema=schema)
    for column, values in columns.items():
        table = table.append_column(column, values)
    return table


def _prepare(
    folder: Path,
    events: Sequence[Sequence[Any]],
    *,
    items: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
    item_columns: Mapping[str, pa.Array] | None = None,
    query_columns: Mapping[str, pa.Array] | None = None,
    labels: Labels | None = None,
    split: Split | None = None,
    name: str = "by_hand",
    first_at_ms: int = FIRST_AT_MS,
) -> Path:
    rows = [_event(row, place) for place, row in enumerate(events)]
    for row in rows:
        row["occurred_at"] += first_at_ms - FIRST_AT_MS
    item_ids = sorted({row["item_id"] for row in rows}) if items is None else items
    query_ids = sorted({row["query_id"] for row in rows}) if queries is None else queries
    tables = RawTables(
        events=pa.Table.from_pylist(rows, schema=RAW_EVENTS),
        items=_with_columns(item_ids, "item_id", item_columns or {}, RAW_ITEMS),
        queries=_with_columns(query_ids, "query_id", query_columns or {}, RAW_QUERIES),
    )
    prepare(
        source=TableSource(tables),
        labels=labels or RatingLabels(),
        split=split or LeaveOneOut(ranking_events=0),
        out_dir=folder / "tables",
        name=name,
        now_at_ms=NOW_AT_MS,
        progress=False,
    )
    return folder


@pytest.fixture(scope="session")
def prepare_into() -> Callable[..., Path]:
    """Prepare a dataset, given by its events and the columns of its items and queries, in a folder."""
    return _prepare


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Path]:
    """The same in a folder of the test's own."""
    return partial(_prepare, tmp_path / "data")


@pytest.fixture
def log_of(prepared: Callable[..., Path]) -> Callable[..., Log]:
    """The log of a dataset that is prepared as `prepared` does."""

    def read(*args: Any, **settings: Any) -> Log:
        return Log.read(prepared(*args, **settings) / "tables" / "events.parquet")

    return read


@pytest.fixture(scope="session")
def no_columns() -> FeatureColumns:
    """A dataset without columns of its own."""
    return FeatureColumns(
        query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=(), history_length=5
    )
