"""A dataset of one's own: interactions and, optionally, items and queries, from files by a mapping of columns.

Owns which column of the events means what, and what stands in for a table that is not given. How files, cells and
attributes are read lies in tabular.py, cells.py and attributes.py beside this.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FeaturesError
from features.events import INSTANT, RAW_EVENTS, RAW_ITEMS, RAW_QUERIES, RawTables
from features.sources.attributes import ItemFile, QueryFile, Read, check_distinct
from features.sources.cells import NO_TIME, TIME_UNITS, blank, instants, numbers, texts
from features.sources.quoted import Block
from features.sources.tabular import Layout, divide, read_columns

ORDERS = ("time", "column", "row")
FIRST_MADE_AT_MS = 946_684_800_000  # 2000-01-01: instants that are made from an order begin here, a second apart
BLANK_EVENTS = pa.schema([*RAW_EVENTS, ("order", pa.float64())])


@dataclass(frozen=True)
class EventColumns:
    """Names of the columns that say it, in the file; null where none does."""

    query_id: str = "query_id"
    item_id: str = "item_id"
    event: str | None = None
    value: str | None = None
    time: str | None = "timestamp"
    order: str | None = None


@dataclass(frozen=True)
class EventFile:
    """The interactions.

    Args:
        path: a .csv, .csv.gz, .tsv, .tsv.gz or .parquet file.
        columns: which column says what.
        event: the kind of every event, where no column says it.
        value: the value of every event, where no column says it.
        order: what tells the order of events: `time`, a `column` of numbers that grow, or the `row` of the file. The
            latter two know no time: instants are then made from the order, one second apart from 2000-01-01 on (equal
            numbers share one), so that ages, hours and sessions mean nothing.
        time_unit: of the time column: s, ms, us or ns since 1970, or iso for ISO 8601, in UTC where it names no zone.
            A Parquet column that has a type for times needs none.
        layout: of a text file.
    """

    path: str | Path
    columns: EventColumns = field(default_factory=EventColumns)
    event: str = "interaction"
    value: float = 1.0
    order: str = "time"
    time_unit: str = "s"
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        for name, got, allowed in (("order", self.order, ORDERS), ("time_unit", self.time_unit, TIME_UNITS)):
            if got not in allowed:
                raise FeaturesError(f"dataset.source.events.{name} must be one of {allowed}, got {got!r}")
        if self.order != "row" and self.ordering is None:
            name = "time" if self.order == "time" else "order"
            raise FeaturesError(
                f"dataset.source.events.columns.{name} is null: name the column that tells the order of events, or set "
                "dataset.source.events.order=row where the rows of the file stand in their order"
            )
        if not str(self.event).strip() or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise FeaturesError(
                "dataset.source.events: expected a word for event and a finite number for value, "
                f"got {self.event!r} and {self.value!r}"
            )
        check_distinct("dataset.source.events.columns", list(self.roles.values()))

    @property
    def ordering(self) -> str | None:
        """The column that tells the order of events."""
        return {"time": self.columns.time, "column": self.columns.order}.get(self.order)

    @property
    def roles(self) -> dict[str, str]:
        """By name in the raw table, the column that says it."""
        named = {
            "query_id": self.columns.query_id,
            "item_id": self.columns.item_id,
            "event": self.columns.event,
            "value": self.columns.value,
            "occurred_at": self.ordering,
        }
        return {role: column for role, column in named.items() if column is not None}

    def read(self) -> Read:
        """Read the events.

        Raises:
            SourceMissing: there is no such file.
            SourceDamaged: it is not what it should be.
            SchemaMismatch: it lacks a column, or has it with a type that does not fit.
        """
        columns = list(self.roles.values())
        parts = [self._typed(block) for block in read_columns(Path(self.path), layout=self.layout, columns=columns)]
        events = pa.concat_tables([part for part, _ in parts])
        facts = {}
        if self.order != "time":
            made = _made_instants(events["order"])
            events = events.set_column(events.column_names.index("occurred_at"), "occurred_at", made)
            facts["times_made_from_order"] = events.num_rows
        unparsed = pa.concat_tables([part for _, part in parts], promote_options="default")
        return Read(table=events.select(RAW_EVENTS.names), unparsed=unparsed, facts=facts)

    def _typed(self, block: Block) -> tuple[pa.Table, pa.Table]:
        """Events of a block, with the number that orders them; and its rows that do not parse."""
        cells, roles = block.cells, self.roles
        what = {role: f"{self.path}: column {column!r}" for role, column in roles.items()}
        table: dict[str, pa.ChunkedArray | pa.Array] = {
            role: texts(cells[roles[role]], what=what[role])
            if role in roles
            else pa.repeat(pa.scalar(self.event), cells.num_rows)
            for role in ("query_id", "item_id", "event")
        }
        table["value"] = pa.repeat(pa.scalar(float(self.value)), cells.num_rows)
        table["occurred_at"] = pa.nulls(cells.num_rows, INSTANT)
        table["source_row"] = cells["source_row"]
        table["order"] = cells["source_row"].cast(pa.float64())
        misfits = []
        if "value" in roles:
            read = numbers(cells[roles["value"]], what=what["value"])
            table["value"] = read.values
            misfits.append(("value is no number", read.misfits))
        if self.order == "time":
            read = instants(cells[roles["occurred_at"]], unit=self.time_unit, what=what["occurred_at"])
            table["occurred_at"] = read.values
            misfits.append((f"time is {NO_TIME[self.time_unit]}", read.misfits))
        elif self.order == "column":
            read = numbers(cells[roles["occurred_at"]], what=what["occurred_at"])
            table["order"] = read.values
            misfits.append(("order is no number", pc.invert(pc.fill_null(pc.is_finite(read.values), False))))
        good, unparsed = divide(block, roles=roles, misfits=misfits)
        return pa.table(table, schema=BLANK_EVENTS).filter(good), unparsed


@dataclass(frozen=True)
class Files:
    """The dataset.

    Args:
        events: the interactions.
        items: what is known of items; with no path, items are those of the events.
        queries: what is known of queries; with no path, queries are those of the events.
    """

    events: EventFile
    items: ItemFile = field(default_factory=ItemFile)
    queries: QueryFile = field(default_factory=QueryFile)

    def read(self) -> RawTables:
        """Read the three tables.

        Raises:
            SourceMissing: a file is not there.
            SourceDamaged: a file is not what it should be.
            SchemaMismatch: a file lacks a column, or has it with a type that does not fit.
        """
        found = {"events": self.events.read()}
        found["items"] = self.items.read() or _from_events(found["events"].table, "item_id", RAW_ITEMS)
        found["queries"] = self.queries.read() or _from_events(found["events"].table, "query_id", RAW_QUERIES)
        paths = {"events": self.events.path, "items": self.items.path, "queries": self.queries.path}
        facts: dict[str, int] = {}
        for part in found.values():
            facts |= part.facts
        return RawTables(
            events=found["events"].table,
            items=found["items"].table,
            queries=found["queries"].table,
            unparsed={name: part.unparsed for name, part in found.items()},
            facts=facts,
            files={name: str(path) for name, path in paths.items() if path is not None},
        )


def _made_instants(order: pa.ChunkedArray) -> pa.ChunkedArray:
    """One second apart, in order; equal numbers share an instant."""
    rank = pc.rank(order, sort_keys="ascending", tiebreaker="dense").cast(pa.int64())
    at_ms = pc.add(pc.multiply(pc.subtract(rank, 1), 1000), FIRST_MADE_AT_MS)
    return pa.chunked_array([at_ms.cast(INSTANT)])


def _from_events(events: pa.Table, id_column: str, schema: pa.Schema) -> Read:
    """A table of the ids that events name, in the order of their first one."""
    ids = pc.unique(events[id_column])
    ids = ids.filter(pc.invert(blank(ids)))
    own = {name: pa.nulls(len(ids), schema.field(name).type) for name in schema.names}
    own |= {id_column: ids, "source_row": pa.array(range(len(ids)), pa.int64())}
    table = "items" if id_column == "item_id" else "queries"
    return Read(table=pa.table(own, schema=schema), facts={f"{table}_taken_from_events": len(ids)})
