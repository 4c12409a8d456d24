"""Delimited text with quoted values -> Arrow string columns, block by block, every row accounted for.

Owns where a row ends, what quotes enclose, and which rows do not fit. Knows nothing of files, nor of what columns mean.

A row is a line, or several where a quoted value holds line ends; it is numbered from 0, after the header, whether good
or not. An empty line is a row of empty cells. Blocks whose quotes all stand where they should are parsed by Arrow, the
others by Python's csv module in its strict mode: Arrow takes a quote that is never closed for one that swallows the
rows up to the next, without a word (pyarrow 23), and DuckDB 2.0 gives up on many such blocks.
"""

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from features.errors import SchemaMismatch, SourceDamaged
from features.events import UNPARSED
from features.sources.strict_rows import MAX_ROW_BYTES, Dialect, bytes_of, lines_of, misfit, strict_reader, strict_rows

BLOCK_BYTES = 1 << 23
LINE_ENDS = b"\n\r"
MAX_SHOWN = 300  # characters of a header that an error shows

BadRow = tuple[int, str, str]  # place in the block, the row as it stood, reason


class ByteStream(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, or about so many; none at the end."""
        ...


@dataclass(frozen=True)
class Block:
    """Consecutive rows: columns as they stand in the file and `source_row`; and those that do not fit (UNPARSED)."""

    cells: pa.Table
    unparsed: pa.Table


@dataclass(frozen=True)
class _Parsed:
    columns: list[pa.ChunkedArray]
    bad: list[BadRow]
    num_bytes: int  # that the rows took, from the beginning of what was given

    @property
    def num_rows(self) -> int:
        return len(self.columns[0]) + len(self.bad)


def read_blocks(
    stream: ByteStream,
    *,
    name: str,
    dialect: Dialect,
    columns: Sequence[str],
    header: Sequence[str] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Read the named columns.

    Args:
        stream: UTF-8, with or without a byte order mark.
        name: what errors call it.
        dialect: delimiter and quote.
        columns: names in the header, at least one.
        header: the names, where the text does not begin with them.
        block_bytes: how much is read at a time.

    Raises:
        SchemaMismatch: a column is not there, or more than once.
        SourceDamaged: there is no header, or a quoted value has no end.
    """
    rest = stream.read(block_bytes).removeprefix(codecs.BOM_UTF8)
    names = list(header)
    if not names:
        names, rest = _take_header(rest, dialect, name=name)
    places = [place_of(column, names, name=name) for column in columns]
    next_row, more = 0, b"?"
    while more:
        # A row longer than a block doubles what is read, so that it too is parsed in linear time.
        more = stream.read(max(block_bytes, len(rest)))
        rest += more
        parsed = _parse(rest, dialect, num_columns=len(names), places=places, final=not more)
        yield _block(parsed, columns=columns, first_row=next_row)
        next_row += parsed.num_rows
        rest = rest[parsed.num_bytes :]
        if rest and (not more or len(rest) > MAX_ROW_BYTES):
            raise SourceDamaged(
                f"{name}: row {next_row} has no end: a quote opens a value that never closes, or the row is longer "
                f"than {MAX_ROW_BYTES} bytes; mend it, or set layout.quote to nothing where quotes enclose no values"
            )


def place_of(column: str, names: Sequence[str], *, name: str) -> int:
    """Where a column stands among the names of a header.

    Raises:
        SchemaMismatch: it is not there, or more than once.
    """
    if names.count(column) == 1:
        return names.index(column)
    found = repr(list(names))
    shown = found if len(found) <= MAX_SHOWN else found[:MAX_SHOWN] + " ..."
    fault = f"more than one column {column!r}" if column in names else f"no column {column!r}"
    raise SchemaMismatch(f"{name}: {fault} among {shown}; map another column, or mend its header or its delimiter")


def _take_header(data: bytes, dialect: Dialect, *, name: str) -> tuple[list[str], bytes]:
    """The names in the first row, and what follows it."""
    if not data:
        raise SourceDamaged(f"{name} is empty; expected a header and rows")
    lines = lines_of(data)
    rows = strict_reader(lines, dialect)
    try:
        names = next(rows)
        "".join(names).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        reason = error if isinstance(error, csv.Error) else "not UTF-8"
        raise SourceDamaged(
            f"{name}: its header cannot be read ({reason}); is it delimited text, in the encoding that layout says?"
        ) from error
    used = sum(len(bytes_of(line)) for line in lines[: rows.line_num])
    return names, data[used:]


def _parse(data: bytes, dialect: Dialect, *, num_columns: int, places: Sequence[int], final: bool) -> _Parsed:
    """Parse the rows that are whole; where `final`, the last one needs no line end."""
    end = len(data) if final else data.rfind(b"\n") + 1
    tidy_end = _tidy_end(data, end, dialect, final=final)
    if tidy_end:
        return _parse_tidy(data[:tidy_end], dialect, num_columns=num_columns, places=places)
    return _parse_untidy(data[:end], dialect, num_columns=num_columns, places=places)


def _tidy_end(data: bytes, end: int, dialect: Dialect, *, final: bool) -> int:
    """Where the last whole row ends, if all before `end` is UTF-8 and every quote encloses a whole value; 0 if not."""
    try:
        data[:end].decode()
    except UnicodeDecodeError:
        return 0
    if not dialect.quote or data.find(dialect.quote, 0, end) < 0:
        return end
    content = np.frombuffer(data, dtype=np.uint8, count=end)
    quotes = np.flatnonzero(content == dialect.quote[0])
    if not final:
        line_ends = np.flatnonzero(content == LINE_ENDS[0])
        outside = line_ends[np.searchsorted(quotes, line_ends) % 2 == 0]
        end = int(outside[-1]) + 1 if outside.size else 0
        quotes = quotes[quotes < end]
    if quotes.size % 2:
        return 0
    is_border = np.zeros(256, dtype=np.bool_)
    is_border[np.frombuffer(dialect.delimiter + LINE_ENDS, dtype=np.uint8)] = True
    opening, closing = quotes[0::2], quotes[1::2]
    starts_value = (opening == 0) | is_border[content[opening - 1]]
    ends_value = (closing == end - 1) | is_border[content[np.minimum(closing + 1, content.size - 1)]]
    doubled = closing[:-1] + 1 == opening[1:]
    starts_value[1:] |= doubled
    ends_value[:-1] |= doubled
    return end if starts_value.all() and ends_value.all() else 0


def _parse_tidy(data: bytes, dialect: Dialect, *, num_columns: int, places: Sequence[int]) -> _Parsed:
    bad: list[BadRow] = []

    def keep_apart(row: arrow_csv.InvalidRow) -> str:
        bad.append((row.number - 1, row.text, f"not {num_columns} columns"))
        return "skip"

    names = [str(place) for place in range(num_columns)]
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        # Only a single thread knows the numbers of invalid rows.
        arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
        arrow_csv.ParseOptions(
            delimiter=dialect.delimiter.decode(),
            quote_char=dialect.quote.decode() or False,
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=keep_apart,
        ),
        arrow_csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=[names[place] for place in places],
        ),
    )
    return _Parsed(columns=table.columns, bad=bad, num_bytes=len(data))


def _parse_untidy(data: bytes, dialect: Dialect, *, num_columns: int, places: Sequence[int]) -> _Parsed:
    lines = lines_of(data)
    good: list[list[str]] = []
    bad: list[BadRow] = []
    end = 0
    for row, first, end in strict_rows(lines, dialect):
        text = "".join(lines[first:end]).rstrip("\r\n")
        reason = misfit(row, text, num_columns)
        if reason:
            bad.append((len(good) + len(bad), bytes_of(text).decode(errors="replace"), reason))
        else:
            good.append(row or [""] * num_columns)
    columns = [pa.chunked_array([pa.array([row[place] for row in good], pa.string())]) for place in places]
    return _Parsed(columns=columns, bad=bad, num_bytes=sum(len(bytes_of(line)) for line in lines[:end]))


def _block(parsed: _Parsed, *, columns: Sequence[str], first_row: int) -> Block:
    rows = np.arange(first_row, first_row + parsed.num_rows)
    good = np.ones(parsed.num_rows, dtype=np.bool_)
    good[[place for place, _, _ in parsed.bad]] = False
    cells = pa.table([*parsed.columns, pa.array(rows[good])], names=[*columns, "source_row"])
    unparsed = [{"raw": text, "reason": reason, "source_row": first_row + place} for place, text, reason in parsed.bad]
    return Block(cells=cells, unparsed=pa.Table.from_pylist(unparsed, schema=UNPARSED))
