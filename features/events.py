"""The three raw tables: their schemas, and which of their rows are good.

Owns what a dataset source must yield and why a row is set aside. Knows no dataset by name and never drops a row: each
is either good or in `rejected` with its reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.copies import Mask, are_distinct, codes, encode, later_copies
from features.errors import SchemaMismatch

INSTANT = pa.timestamp("ms", tz="UTC")
LAST_READABLE_MS = 253_402_300_799_999  # the end of year 9999
LARGEST_VALUE = float(np.finfo(np.float32).max)  # features are of 32 bits
TABLES = ("events", "items", "queries")

# source_row is the row's place in the raw file, from 0: it breaks ties in time, and leads back from a rejected row.
RAW_EVENTS = pa.schema(
    [
        ("query_id", pa.string()),
        ("item_id", pa.string()),
        ("event", pa.string()),
        ("value", pa.float64()),
        ("occurred_at", INSTANT),
        ("source_row", pa.int64()),
    ]
)
# A dataset declares columns of its own beside these.
RAW_ITEMS = pa.schema([("item_id", pa.string()), ("available_from", INSTANT), ("source_row", pa.int64())])
RAW_QUERIES = pa.schema([("query_id", pa.string()), ("source_row", pa.int64())])
# `raw` is the row as it stood.
UNPARSED = pa.schema([("raw", pa.string()), ("reason", pa.string()), ("source_row", pa.int64())])

CLEAN_EVENTS = pa.schema(
    [
        ("query_id", pa.string()),
        ("item_id", pa.string()),
        ("event", pa.string()),
        ("value", pa.float64()),
        ("occurred_at_ms", pa.int64()),
        ("source_row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class RawTables:
    """What a source read.

    `unparsed` holds, by table name, rows that do not fit the schema: the columns of UNPARSED and, as strings, what is
    known of the table's own. `facts` are counts worth reporting; `files` says, by table name, what it was read from.
    """

    events: pa.Table
    items: pa.Table
    queries: pa.Table
    unparsed: Mapping[str, pa.Table] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A dataset: raw files -> three tables."""

    def read(self) -> RawTables:
        """Read everything; raise SourceMissing or SourceDamaged when that cannot be done."""
        ...


@dataclass(frozen=True)
class Validated:
    """Good rows, typed; and the others with a reason.

    `events` has CLEAN_EVENTS; `items` and `queries` keep their raw columns without `source_row`. Tables in `rejected`
    have every column as a string, `raw` (null where the row did parse), `reason` and `source_row`.
    """

    events: pa.Table
    items: pa.Table
    queries: pa.Table
    rejected: Mapping[str, pa.Table]


def validate(raw: RawTables, *, now_at_ms: int) -> Validated:
    """Divide each raw table into good rows and rejected ones; the first reason that applies is given.

    Args:
        raw: what a source read.
        now_at_ms: events after this instant are rejected.

    Raises:
        SchemaMismatch: a table lacks a column, has it with another type, or repeats a source_row.
    """
    _check_source(raw)
    items, bad_items = _id_reasons(raw.items, "item_id").divide(raw.items)
    queries, bad_queries = _id_reasons(raw.queries, "query_id").divide(raw.queries)
    reasons = _event_reasons(raw.events, item_ids=items["item_id"], query_ids=queries["query_id"], now_at_ms=now_at_ms)
    events, bad_events = reasons.divide(raw.events)
    at_ms = events["occurred_at"].cast(pa.int64())
    return Validated(
        events=events.append_column("occurred_at_ms", at_ms).select(CLEAN_EVENTS.names),
        items=items.drop_columns("source_row"),
        queries=queries.drop_columns("source_row"),
        rejected={
            name: _with_unparsed(bad, raw.unparsed.get(name))
            for name, bad in zip(TABLES, (bad_events, bad_items, bad_queries), strict=True)
        },
    )


def count_reasons(rejected: pa.Table) -> dict[str, int]:
    """Rows by reason, the most frequent reason first, ties by name."""
    counts = {row["values"]: row["counts"] for row in pc.value_counts(rejected["reason"]).to_pylist()}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def set_aside(table: pa.Table, *, reasons: pa.Array) -> pa.Table:
    """Rows of a typed table in the form of a rejected table."""
    text = as_strings(table).append_column("raw", pa.nulls(table.num_rows, pa.string()))
    return text.append_column("reason", reasons)


def as_strings(table: pa.Table) -> pa.Table:
    """Every column as a string but `source_row`: lists as JSON, instants as ISO 8601 or, beyond year 9999, in ms."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            at_ms = column.cast(pa.int64())
            readable = pc.and_(pc.less_equal(at_ms, LAST_READABLE_MS), pc.greater_equal(at_ms, -LAST_READABLE_MS))
            columns[name] = pc.if_else(readable, column.cast(pa.string()), at_ms.cast(pa.string()))
        elif pa.types.is_list(column.type):
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
            columns[name] = pa.array(values, pa.string())
        else:
            columns[name] = column if name == "source_row" else column.cast(pa.string())
    return pa.table(columns)


def _check_source(raw: RawTables) -> None:
    for name, table, schema in (
        ("events", raw.events, RAW_EVENTS),
        ("items", raw.items, RAW_ITEMS),
        ("queries", raw.queries, RAW_QUERIES),
    ):
        _check_columns(f"raw {name}", table, schema)
        if not are_distinct(table["source_row"]):
            raise SchemaMismatch(f"raw {name}: source_row must be each row's own place, but some miss or repeat theirs")
    for name, table in raw.unparsed.items():
        if name not in TABLES:
            raise SchemaMismatch(f"unparsed rows must belong to one of {TABLES}, the source gave {name!r}")
        _check_columns(f"unparsed {name}", table, UNPARSED)


def _check_columns(what: str, table: pa.Table, schema: pa.Schema) -> None:
    for column in schema:
        if column.name not in table.column_names:
            raise SchemaMismatch(f"{what}: column {column.name!r} is missing, the source gave {table.column_names}")
        got = table[column.name].type
        if got != column.type:
            raise SchemaMismatch(f"{what}: column {column.name!r} must be {column.type}, the source gave {got}")


@dataclass
class _Reasons:
    """Why rows of a table are bad: the first reason given for each, and 0, which is no place in `words`, for none."""

    codes: NDArray[np.int8]
    words: list[str] = field(default_factory=lambda: [""])

    @property
    def none(self) -> Mask:
        mask: Mask = self.codes == 0
        return mask

    def add(self, reason: str, applies: Mask | pa.ChunkedArray | pa.Array) -> None:
        """Give a reason to the rows that have none yet where a mask is true; a null in it is false."""
        if not isinstance(applies, np.ndarray):
            applies = pc.fill_null(applies, False).to_numpy(zero_copy_only=False)
        self.codes[self.none & applies] = len(self.words)
        self.words.append(reason)

    def divide(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows without a reason, and the others with theirs."""
        good = self.none
        if good.all():
            return table, set_aside(table.slice(0, 0), reasons=pa.array([], pa.string()))
        bad = table.filter(pa.array(~good))
        return table.filter(pa.array(good)), set_aside(
            bad, reasons=pa.array(self.words).take(pa.array(self.codes[~good]))
        )


def _id_reasons(table: pa.Table, id_column: str) -> _Reasons:
    ids = encode(table[id_column])
    reasons = _Reasons(np.zeros(table.num_rows, dtype=np.int8))
    reasons.add(f"{id_column} missing", _blank(ids))
    # numpy drops NULs from the end of a string: two ids would become one.
    reasons.add(f"{id_column} holds a NUL", pc.match_substring(ids.dictionary, "\0").take(ids.indices))
    copies = later_copies([codes(ids)], source_rows=table["source_row"].to_numpy(), among=reasons.none)
    reasons.add(f"{id_column} repeated", copies)
    return reasons


def _event_reasons(events: pa.Table, *, item_ids: pa.Array, query_ids: pa.Array, now_at_ms: int) -> _Reasons:
    strings = {name: encode(events[name]) for name in ("query_id", "item_id", "event")}
    at_ms = events["occurred_at"].cast(pa.int64())
    reasons = _Reasons(np.zeros(events.num_rows, dtype=np.int8))
    for name, column in strings.items():
        reasons.add(f"{name} missing", _blank(column))
    reasons.add("value missing", pc.is_null(events["value"]))
    reasons.add("value not finite", pc.invert(pc.is_finite(events["value"])))
    reasons.add("value too large", pc.greater(pc.abs(events["value"]), LARGEST_VALUE))
    reasons.add("time missing", pc.is_null(at_ms))
    reasons.add("time negative", pc.less(at_ms, 0))
    reasons.add("time after now", pc.greater(at_ms, now_at_ms))
    reasons.add("unknown query", _is_unknown(strings["query_id"], query_ids))
    reasons.add("unknown item", _is_unknown(strings["item_id"], item_ids))
    keys = [codes(column) for column in (*strings.values(), events["value"], at_ms)]
    copies = later_copies(keys, source_rows=events["source_row"].to_numpy(), among=reasons.none)
    reasons.add("exact copy of an earlier row", copies)
    return reasons


def _blank(column: pa.DictionaryArray) -> pa.Array:
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column.dictionary)), 0)
    return pc.fill_null(blank.take(column.indices), True)


def _is_unknown(column: pa.DictionaryArray, known: pa.ChunkedArray) -> pa.Array:
    return pc.invert(pc.is_in(column.dictionary, value_set=known)).take(column.indices)


def _with_unparsed(rejected: pa.Table, unparsed: pa.Table | None) -> pa.Table:
    if unparsed is None:
        return rejected
    both = pa.concat_tables([rejected, unparsed], promote_options="default")
    return both.select(rejected.column_names).sort_by("source_row")
