"""Cells of a file -> ids, texts, categories, numbers and instants.

Owns which cells can be read as what, for strings and for the types of Parquet alike. Knows no file and no dataset.

A cell that is null or blank is missing, and becomes null; one that says something else than it should is a misfit.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from features.errors import SchemaMismatch
from features.events import INSTANT
from features.sources.delimited import numbers as parsed_numbers

ISO = "iso"
PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}  # units in a millisecond
TIME_UNITS = (*PER_MS, ISO)
NO_TIME = {
    "s": "no number of seconds",
    "ms": "no number of milliseconds",
    "us": "no number of microseconds",
    "ns": "no number of nanoseconds",
    ISO: "no instant in ISO 8601",
}
MAX_AT_MS = 1e17  # about the year 3,000,000; what lies beyond is no time, and would overflow
DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?"
ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
ISO_DATE, ISO_TIME = f"^{DATE}$", f"^{DATE}[T ]{CLOCK}{ZONE}?$"
IMPOSSIBLE_DAYS = pa.array(["02-30", "02-31", "04-31", "06-31", "09-31", "11-31"])
LEAP_DAY = "02-29"
NAMES = pa.list_(pa.string())
TEXT_TYPES = (
    pt.is_string,
    pt.is_large_string,
    pt.is_string_view,
    pt.is_integer,
    pt.is_boolean,
    pt.is_decimal,
    pt.is_date,
    pt.is_timestamp,
    pt.is_null,
)


@dataclass(frozen=True)
class Column:
    """Values, and where a cell is a misfit (its value is then null)."""

    values: pa.ChunkedArray
    misfits: pa.ChunkedArray


def texts(cells: pa.ChunkedArray, *, what: str) -> pa.ChunkedArray:
    """As strings; whole floats without their fraction, for that is how ids with gaps come out of a data frame.

    Args:
        cells: what was read.
        what: file and column, for the error.

    Raises:
        SchemaMismatch: the column is of a type that is no text.
    """
    if pt.is_floating(cells.type):
        return _float_texts(cells)
    if any(is_of(cells.type) for is_of in TEXT_TYPES):
        return cells.cast(pa.string())
    raise SchemaMismatch(f"{what} is {cells.type}, expected text, whole numbers or another type with one value a cell")


def categories(cells: pa.ChunkedArray, *, separator: str | None, what: str) -> pa.ChunkedArray:
    """As lists of strings, without blank ones; a text is divided at each separator, if there is one.

    Raises:
        SchemaMismatch: the column is of a type that is neither text nor a list of texts.
    """
    if pt.is_list(cells.type) or pt.is_large_list(cells.type):
        if not (pt.is_string(cells.type.value_type) or pt.is_large_string(cells.type.value_type)):
            raise SchemaMismatch(f"{what} is {cells.type}, expected texts or lists of texts")
        lists = cells.cast(NAMES)
    elif separator:
        lists = pc.split_pattern(texts(cells, what=what), separator)
    else:
        values = texts(cells, what=what)
        lists = pa.chunked_array(
            [pa.ListArray.from_arrays(np.arange(len(one) + 1, dtype=np.int32), one) for one in values.chunks], NAMES
        )
    return pa.chunked_array([_without_blanks(chunk) for chunk in lists.chunks], NAMES)


def numbers(cells: pa.ChunkedArray, *, what: str) -> Column:
    """As float64; `inf` and `nan` are numbers here.

    Raises:
        SchemaMismatch: the column is of a type that is neither a number nor text.
    """
    kind = cells.type
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind):
        values = cells.cast(pa.uint8() if pt.is_boolean(kind) else kind).cast(pa.float64(), safe=False)
        return Column(values=values, misfits=_none_of(cells))
    tokens = texts(cells, what=what)
    values = parsed_numbers(tokens)
    return Column(values=values, misfits=pc.and_(pc.is_null(values), pc.invert(blank(tokens))))


def instants(cells: pa.ChunkedArray, *, unit: str, what: str) -> Column:
    """As instants, to the millisecond.

    Args:
        cells: what was read.
        unit: one of TIME_UNITS; a column that has times for its type needs none. A time without a zone is in UTC.
        what: file and column, for the error.

    Raises:
        SchemaMismatch: the column is of a type that is neither a time, a number nor text.
    """
    if pt.is_date(cells.type):
        cells = cells.cast(pa.timestamp("ms"))
    if pt.is_timestamp(cells.type):
        return _counted(numbers(cells.cast(pa.int64()), what=what), unit=cells.type.unit)
    if unit != ISO:
        return _counted(numbers(cells, what=what), unit=unit)
    tokens = texts(cells, what=what)
    values = _iso_instants(pc.utf8_trim_whitespace(tokens))
    return Column(values=values, misfits=pc.and_(pc.is_null(values), pc.invert(blank(tokens))))


def blank(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where a cell says nothing."""
    return pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(tokens)), 0), True)


def _none_of(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(False), len(cells))])


def _counted(count: Column, *, unit: str) -> Column:
    """Instants from a count of units since 1970."""
    at_ms = pc.round(pc.divide(count.values, PER_MS[unit]))
    fits = pc.less_equal(pc.abs(at_ms), MAX_AT_MS)  # false for nan
    values = pc.if_else(fits, at_ms, None).cast(pa.int64()).cast(INSTANT)
    return Column(values=values, misfits=pc.or_(count.misfits, pc.fill_null(pc.invert(fits), False)))


def _float_texts(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pc.if_else(pc.is_nan(cells), None, cells).cast(pa.float64())
    whole = pc.and_(pc.equal(known, pc.trunc(known)), pc.less(pc.abs(known), 2**53))
    return pc.if_else(whole, pc.if_else(whole, known, None).cast(pa.int64()).cast(pa.string()), known.cast(pa.string()))


def _without_blanks(lists: pa.ListArray) -> pa.ListArray:
    values = pc.utf8_trim_whitespace(lists.flatten())
    kept = pc.greater(pc.fill_null(pc.binary_length(values), 0), 0)
    ends = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))])
    num_kept = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(num_kept[ends].astype(np.int32), values.filter(kept))


def _iso_instants(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    is_date = pc.match_substring_regex(tokens, ISO_DATE)
    known = pc.and_(pc.or_(is_date, pc.match_substring_regex(tokens, ISO_TIME)), _is_day(tokens))
    clear = pc.if_else(known, tokens, None)
    timed = pc.if_else(is_date, pc.binary_join_element_wise(clear, "T00:00", ""), clear)
    zoned = pc.match_substring_regex(timed, f":[0-9.]+{ZONE}$")
    full = pc.if_else(zoned, timed, pc.binary_join_element_wise(timed, "Z", ""))
    # Arrow refuses digits beyond the unit.
    return pc.replace_substring_regex(full, r"(\.[0-9]{3})[0-9]+", r"\1").cast(INSTANT)


def _is_day(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """False for the 30th of February and its like."""
    day = pc.utf8_slice_codeunits(tokens, 5, 10)
    digits = pc.utf8_slice_codeunits(tokens, 0, 4)
    is_year = pc.fill_null(pc.match_substring_regex(digits, "^[0-9]{4}$"), False)
    year = pc.if_else(is_year, digits, "0").cast(pa.int32())
    leap = pc.and_(_divides(4, year), pc.or_(pc.invert(_divides(100, year)), _divides(400, year)))
    possible = pc.invert(pc.is_in(day, value_set=IMPOSSIBLE_DAYS))
    return pc.and_(possible, pc.or_(leap, pc.not_equal(day, LEAP_DAY)))


def _divides(factor: int, numbers_: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.equal(pc.multiply(pc.divide(numbers_, factor), factor), numbers_)
