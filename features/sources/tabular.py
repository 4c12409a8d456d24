"""Columns of a file: CSV, TSV (either may be gzipped) or Parquet, in blocks of rows.

Owns paths, file types, encodings and what a broken file is called. Knows nothing of what columns mean.
"""

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FeaturesError, SourceDamaged, SourceMissing
from features.events import UNPARSED, as_strings
from features.sources.quoted import Block, ByteStream, place_of, read_blocks
from features.sources.strict_rows import Dialect

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SEPARATOR = b"\x1f"  # stands for a delimiter of several characters, which parsers do not know
BATCH_ROWS = 1 << 18
UTF8 = ("utf-8", "utf-8-sig")


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out; a Parquet file says so itself.

    Args:
        delimiter: ASCII characters, or the word tab; null goes by the name: a comma in .csv, a tab in .tsv.
        quote: one character that may enclose values; empty where quotes mean nothing.
        encoding: a codec of Python's.
        header: names of the columns, where the file does not begin with them.
    """

    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    header: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.delimiter is not None and not (isinstance(self.delimiter, str) and _divides(self.delimiter)):
            raise FeaturesError(f"layout.delimiter must be ASCII characters of one line, got {self.delimiter!r}")
        if self.quote and (not _divides(self.quote) or len(self.quote) > 1 or self.quote in (self.delimiter or "")):
            raise FeaturesError(f"layout.quote must be empty or one ASCII character, got {self.quote!r}")
        if isinstance(self.header, str):
            raise FeaturesError(f"layout.header must be a list of names, got {self.header!r}")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError) as error:
            raise FeaturesError(f"layout.encoding must be a codec of Python's, got {self.encoding!r}") from error

    def delimiter_of(self, path: Path) -> bytes:
        """What divides the values of a file.

        Raises:
            FeaturesError: neither the layout nor the file's name says it.
        """
        suffix = Path(path.name.lower().removesuffix(".gz")).suffix
        delimiter = "\t" if self.delimiter == "tab" else self.delimiter or DELIMITERS.get(suffix)
        if delimiter is None:
            raise FeaturesError(
                f"{path}: expected a name that ends in .csv, .tsv (or these and .gz) or .parquet; "
                "rename it, or set layout.delimiter"
            )
        return delimiter.encode()


def read_columns(path: Path, *, layout: Layout, columns: Sequence[str]) -> Iterator[Block]:
    """Read columns of a file; at least one block comes, if without rows.

    Cells of a text file are strings, those of a Parquet file have its types.

    Raises:
        SourceMissing: there is no such file.
        SourceDamaged: it is not what it should be.
        SchemaMismatch: it lacks a column, or has it twice.
    """
    with _damages(path):
        if path.suffix.lower() in (".parquet", ".pq") and path.is_file():
            yield from _parquet_blocks(path, columns)
        else:
            yield from _text_blocks(path, layout, columns)


def _text_blocks(path: Path, layout: Layout, columns: Sequence[str]) -> Iterator[Block]:
    with _opened(path) as file:
        stream: ByteStream = cast(BinaryIO, gzip.open(file)) if path.suffix.lower() == ".gz" else file
        if codecs.lookup(layout.encoding).name not in UTF8:
            stream = _Transcoded(cast(BinaryIO, stream), layout.encoding)
        delimiter = layout.delimiter_of(path)
        if len(delimiter) > 1:
            stream = _Replaced(stream, delimiter)
        dialect = Dialect(delimiter=delimiter if len(delimiter) == 1 else SEPARATOR, quote=layout.quote.encode())
        for block in read_blocks(stream, name=str(path), dialect=dialect, columns=columns, header=layout.header):
            yield block if len(delimiter) == 1 else _with_delimiter(block, delimiter.decode())


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file, or a member of a zip file by a path that goes through it."""
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is None:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "there is none"
            raise SourceMissing(f"expected a file at {path.absolute()}, but {what}; set the path of dataset.source")
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(archive) as members:
        name = path.relative_to(archive).as_posix()
        if name not in members.namelist():
            raise SourceMissing(f"expected {name} in the zip file {archive.absolute()}; set the path of dataset.source")
        if members.getinfo(name).flag_bits & 1:
            raise SourceDamaged(f"{path} is encrypted; unpack the zip file with its password")
        with members.open(name) as member:
            yield cast(BinaryIO, member)


def divide(
    block: Block, *, roles: Mapping[str, str], misfits: Sequence[tuple[str, pa.ChunkedArray]]
) -> tuple[pa.ChunkedArray, pa.Table]:
    """Where a block's rows are good; and those that are not, the unparsed ones included, in the form of UNPARSED.

    Args:
        block: what was read.
        roles: by name in a raw table, the column that says it: a row's own cells go there as strings.
        misfits: reasons and where each applies; the first that does is given. `raw` is then the row's cells that were
            read, with tabs between them.
    """
    reasons = pa.chunked_array([pa.nulls(block.cells.num_rows, pa.string())])
    for reason, applies in reversed(misfits):
        reasons = pc.if_else(applies, reason, reasons)
    good = pc.is_null(reasons)
    bad = as_strings(block.cells.filter(pc.invert(good)))
    cells = [bad[name] for name in bad.column_names if name != "source_row"]
    raw = pc.binary_join_element_wise(*cells, "\t", null_handling="replace", null_replacement="")
    table = {role: bad[column] for role, column in roles.items()}
    table |= {"raw": raw, "reason": reasons.filter(pc.invert(good)), "source_row": bad["source_row"]}
    return good, pa.concat_tables([pa.table(table), block.unparsed], promote_options="default")


class _Transcoded:
    """The bytes of a text in UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding=encoding, newline="")

    def read(self, size: int, /) -> bytes:
        return self._text.read(size).encode()


class _Replaced:
    """Bytes with one in place of a delimiter of several."""

    def __init__(self, stream: ByteStream, delimiter: bytes) -> None:
        self._stream, self._delimiter, self._held = stream, delimiter, b""

    def read(self, size: int, /) -> bytes:
        while True:
            more = self._stream.read(size)
            data = (self._held + more).replace(self._delimiter, SEPARATOR)
            # What may be the beginning of a delimiter waits for what follows it.
            begun = next((n for n in range(len(self._delimiter) - 1, 0, -1) if data.endswith(self._delimiter[:n])), 0)
            whole = len(data) - begun if more else len(data)
            self._held = data[whole:]
            if whole or not more:
                return data[:whole]


def _with_delimiter(block: Block, delimiter: str) -> Block:
    raw = pc.replace_substring(block.unparsed["raw"], SEPARATOR.decode(), delimiter)
    return Block(cells=block.cells, unparsed=block.unparsed.set_column(0, "raw", raw))


def _parquet_blocks(path: Path, columns: Sequence[str]) -> Iterator[Block]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        for column in columns:
            place_of(column, schema.names, name=str(path))
        no_rows = pa.schema([schema.field(column) for column in columns]).empty_table()
        yield _block(no_rows, first_row=0)
        next_row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            cells = pa.Table.from_batches([batch]).select(list(columns))
            _check_text(cells, path=path, first_row=next_row)
            yield _block(cells, first_row=next_row)
            next_row += cells.num_rows


def _block(cells: pa.Table, *, first_row: int) -> Block:
    for place, column in enumerate(cells.columns):
        if pa.types.is_dictionary(column.type):
            decoded = pa.chunked_array([one.dictionary_decode() for one in column.chunks], column.type.value_type)
            cells = cells.set_column(place, cells.column_names[place], decoded)
    rows = pa.array(np.arange(first_row, first_row + cells.num_rows))
    return Block(cells=cells.append_column("source_row", rows), unparsed=UNPARSED.empty_table())


def _check_text(cells: pa.Table, *, path: Path, first_row: int) -> None:
    """Refuse strings that are not UTF-8: Arrow reads them as they come, and fails far from here."""
    for name in cells.column_names:
        column = cells[name]
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            bad = [row for row in range(len(column)) if not _is_valid(column.slice(row, 1))]
            where = f"row {first_row + bad[0]}" if bad else f"the rows from {first_row} on"
            raise SourceDamaged(f"{path}: column {name!r}: {where}: {error}; write the file again") from error


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _divides(text: str) -> bool:
    return text != "" and text.isascii() and not set(text) & set("\r\n\0")


@contextmanager
def _damages(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceDamaged(f"{path}: expected a whole compressed file, but {error}; fetch it again") from error
    except UnicodeError as error:
        raise SourceDamaged(f"{path} is not in the encoding that layout.encoding says: {error}") from error
    except zipfile.BadZipFile as error:
        raise SourceDamaged(f"{path}: expected a whole zip file, but {error}; fetch it again") from error
    except (OSError, pa.ArrowException, NotImplementedError) as error:
        raise SourceDamaged(f"{path} cannot be read: {error}") from error
