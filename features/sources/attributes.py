"""Tables of items and of queries from files: an id, and columns that keep the names they have in the file.

Owns which column is a text, categories or a number. Knows nothing of events.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FeaturesError
from features.events import INSTANT, UNPARSED
from features.sources.cells import NO_TIME, TIME_UNITS, blank, categories, instants, numbers, texts
from features.sources.quoted import Block
from features.sources.tabular import Layout, divide, read_columns

log = logging.getLogger(__name__)

# Names that raw and rejected tables give a meaning of their own.
RESERVED = ("item_id", "query_id", "available_from", "source_row", "raw", "reason")


class Kind(Enum):
    """What becomes of a column."""

    TEXT = "a string"
    CATEGORY = "a string, null where it says nothing"
    CATEGORIES = "a list of strings"
    NUMBER = "float64, null where it is no finite number"


@dataclass(frozen=True)
class Read:
    """What was read of one table: good rows, rows that do not parse (UNPARSED), and counts worth reporting."""

    table: pa.Table
    unparsed: pa.Table = field(default_factory=UNPARSED.empty_table)
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemFile:
    """What is known of items.

    Args:
        path: a .csv, .csv.gz, .tsv, .tsv.gz or .parquet file; null where there is none.
        id: the column of the item's id.
        text: columns of text, the title first.
        categories: columns of categories; one may also be a text.
        numbers: columns of numbers. A cell that is no finite number is missing, and counted.
        separator: what divides a cell of categories into several; null where each is one.
        available_from: the column of the instant from which the item could be recommended, if there is one.
        time_unit: of that column, as of the events.
        layout: of a text file.
    """

    path: str | Path | None = None
    id: str = "item_id"
    text: Sequence[str] = ()
    categories: Sequence[str] = ()
    numbers: Sequence[str] = ()
    separator: str | None = None
    available_from: str | None = None
    time_unit: str = "s"
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        if self.time_unit not in TIME_UNITS:
            raise FeaturesError(f"dataset.source.items.time_unit must be one of {TIME_UNITS}, got {self.time_unit!r}")
        _check_attributes("items", self.path, text=self.text, categories=self.categories, numbers=self.numbers)
        either = dict.fromkeys([*self.text, *self.categories])
        check_distinct("dataset.source.items", [self.id, *either, *self.numbers, self.available_from])

    def read(self) -> Read | None:
        """Read the items; None if there is no file.

        Raises:
            SourceError: the file is not there, or not what it should be.
            SchemaMismatch: it lacks a column, or has it with a type that does not fit.
        """
        if self.path is None:
            return None
        kinds = dict.fromkeys(self.text, Kind.TEXT) | dict.fromkeys(self.numbers, Kind.NUMBER)
        kinds |= dict.fromkeys(self.categories, Kind.CATEGORIES)
        roles = {"item_id": self.id}
        if self.available_from is not None:
            roles["available_from"] = self.available_from
        table = _Table(
            "items", Path(self.path), roles=roles, kinds=kinds, separator=self.separator, unit=self.time_unit
        )
        return table.read(self.layout)


@dataclass(frozen=True)
class QueryFile:
    """What is known of queries.

    Args:
        path: a .csv, .csv.gz, .tsv, .tsv.gz or .parquet file; null where there is none.
        id: the column of the query's id.
        text: the column of what a query says; empty where queries say nothing.
        categories: columns of categories, one in a cell.
        numbers: columns of numbers. A cell that is no finite number is missing, and counted.
        layout: of a text file.
    """

    path: str | Path | None = None
    id: str = "query_id"
    text: str = ""
    categories: Sequence[str] = ()
    numbers: Sequence[str] = ()
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        texts_ = [self.text] if self.text else []
        _check_attributes("queries", self.path, text=texts_, categories=self.categories, numbers=self.numbers)
        check_distinct("dataset.source.queries", [self.id, *texts_, *self.categories, *self.numbers])

    def read(self) -> Read | None:
        """Read the queries; None if there is no file. Raises what ItemFile does."""
        if self.path is None:
            return None
        kinds = dict.fromkeys(self.categories, Kind.CATEGORY) | dict.fromkeys(self.numbers, Kind.NUMBER)
        if self.text:
            kinds[self.text] = Kind.TEXT
        return _Table("queries", Path(self.path), roles={"query_id": self.id}, kinds=kinds).read(self.layout)


def check_distinct(where: str, columns: Sequence[str | None]) -> None:
    """Refuse a mapping that gives one column two meanings.

    Raises:
        FeaturesError: names the column and the settings.
    """
    counts = Counter(column for column in columns if column is not None)
    twice = sorted(column for column, count in counts.items() if count > 1)
    if twice:
        raise FeaturesError(f"{where}: column {twice[0]!r} is mapped twice; a column can mean one thing only")


def _check_attributes(
    table: str,
    path: str | Path | None,
    *,
    text: Sequence[str],
    categories: Sequence[str],
    numbers: Sequence[str],
) -> None:
    for name, columns in (("text", text), ("categories", categories), ("numbers", numbers)):
        where = f"dataset.columns.{table}.{name}"
        if isinstance(columns, str) or not all(isinstance(column, str) for column in columns):
            raise FeaturesError(f"{where} must be a list of columns, such as [{name}]; got {columns!r}")
        taken = [column for column in columns if column in RESERVED]
        if taken:
            raise FeaturesError(f"{where}: a column cannot be called {taken[0]!r} here; rename it in the file")
        if columns and path is None:
            raise FeaturesError(
                f"{where} names {list(columns)}, but dataset.source.{table}.path is null; set it to the file"
            )


@dataclass(frozen=True)
class _Table:
    """How a file is read: `roles` are columns of the raw table's own, `kinds` those that keep their names."""

    name: str
    path: Path
    roles: Mapping[str, str]
    kinds: Mapping[str, Kind]
    separator: str | None = None
    unit: str = "s"

    def read(self, layout: Layout) -> Read:
        tables, unparsed, misread = [], [], Counter[str]()
        for block in read_columns(self.path, layout=layout, columns=[*self.roles.values(), *self.kinds]):
            table, apart = self._typed(block, misread)
            tables.append(table)
            unparsed.append(apart)
        facts = {f"{self.name}_{column}_no_number": count for column, count in misread.items() if count}
        return Read(pa.concat_tables(tables), pa.concat_tables(unparsed, promote_options="default"), facts)

    def _typed(self, block: Block, misread: Counter[str]) -> tuple[pa.Table, pa.Table]:
        """Good rows of a block and the others; cells that are no number are added to `misread`."""
        cells, misfits = block.cells, []
        table: dict[str, pa.ChunkedArray | pa.Array] = {}
        for role, column in self.roles.items():
            if role == "available_from":
                read = instants(cells[column], unit=self.unit, what=self._what(column))
                table[role] = read.values
                misfits.append((f"available_from is {NO_TIME[self.unit]}", read.misfits))
            else:
                table[role] = texts(cells[column], what=self._what(column))
        if self.name == "items":
            table.setdefault("available_from", pa.nulls(cells.num_rows, INSTANT))
        for column, kind in self.kinds.items():
            what = self._what(column)
            if kind is Kind.NUMBER:
                table[column] = self._numbers(cells, column, misread)
            elif kind is Kind.CATEGORIES or (kind is Kind.TEXT and pa.types.is_list(cells[column].type)):
                table[column] = categories(cells[column], separator=self.separator, what=what)
            else:
                said = texts(cells[column], what=what)
                only = pc.utf8_trim_whitespace(pc.if_else(blank(said), None, said))
                table[column] = said if kind is Kind.TEXT else only
        table["source_row"] = cells["source_row"]
        good, unparsed = divide(block, roles=self.roles, misfits=misfits)
        return pa.table(table).filter(good), unparsed

    def _numbers(self, cells: pa.Table, column: str, misread: Counter[str]) -> pa.ChunkedArray:
        read = numbers(cells[column], what=self._what(column))
        wrong = pc.or_(read.misfits, pc.fill_null(pc.is_inf(read.values), False))
        count = pc.sum(wrong).as_py() or 0
        if count and not misread[column]:
            row, cell = (cells.filter(wrong)[name][0].as_py() for name in ("source_row", column))
            log.warning("%s: no finite number, so missing: %r in row %d, the first such", self._what(column), cell, row)
        misread[column] += count
        return pc.if_else(pc.is_finite(read.values), read.values, None)

    def _what(self, column: str) -> str:
        return f"{self.path}: column {column!r}"
