"""Rows of delimited text by Python's csv module in its strict mode: slow, and sure where a quote is out of place.

Owns what a row is that does not fit. Knows nothing of files, nor of columns.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Reader

MAX_ROW_BYTES = 1 << 26


@dataclass(frozen=True)
class Dialect:
    """One byte that divides values and one that may enclose them; `quote` is empty where quotes mean nothing."""

    delimiter: bytes
    quote: bytes


def strict_rows(lines: Sequence[str], dialect: Dialect) -> list[tuple[list[str] | None, int, int]]:
    """Each row (None where a quote is out of place), its first line and the line after it.

    A row whose quoted value goes on after the last line is left out.
    """
    found: list[tuple[list[str] | None, int, int]] = []
    ended = False

    def fed() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True

    rows = strict_reader(fed(), dialect)
    limit = csv.field_size_limit(MAX_ROW_BYTES)  # a limit of the whole process
    try:
        while True:
            first = rows.line_num
            try:
                found.append((next(rows), first, rows.line_num))
            except csv.Error:
                if ended:
                    break
                found.append((None, first, rows.line_num))
    except StopIteration:
        pass
    finally:
        csv.field_size_limit(limit)
    return found


def strict_reader(lines: Iterable[str], dialect: Dialect) -> "Reader":
    """What reads rows from lines."""
    return csv.reader(
        lines,
        delimiter=dialect.delimiter.decode(),
        quotechar=dialect.quote.decode() or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,
    )


def misfit(row: list[str] | None, text: str, num_columns: int) -> str:
    """Why a row does not fit; empty if it does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    if row is None:
        return "a quote out of place"
    return f"not {num_columns} columns" if row and len(row) != num_columns else ""


def lines_of(data: bytes) -> list[str]:
    """Lines with their ends; bytes that are not UTF-8 become surrogates."""
    return list(io.StringIO(data.decode(errors="surrogateescape"), newline=""))


def bytes_of(text: str) -> bytes:
    """The reverse of `lines_of`."""
    return text.encode(errors="surrogateescape")
