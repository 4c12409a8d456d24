import decimal
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SchemaMismatch
from features.sources.cells import NAMES, TIME_UNITS, categories, instants, numbers, texts

TYPES_THAT_SAY_NOTHING = [
    pa.binary(),
    pa.struct([("a", pa.int64())]),
    pa.time64("us"),
    pa.duration("s"),
    pa.map_(pa.string(), pa.string()),
    pa.list_(pa.int64()),
]


def cells(*values: object, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def at_ms(values: pa.ChunkedArray) -> list[int | None]:
    found: list[int | None] = values.cast(pa.int64()).to_pylist()
    return found


def test_texts_of_whole_floats_have_no_fraction_and_missing_ones_are_null():
    assert texts(cells(12.0, 2.5, None, float("nan")), what="ids").to_pylist() == ["12", "2.5", None, None]
    assert texts(cells(7, None), what="ids").to_pylist() == ["7", None]
    assert texts(cells("a", None, kind=pa.large_string()), what="ids").type == pa.string()


def test_categories_are_divided_trimmed_and_never_blank():
    divided = categories(cells("Drama| Crime ", "", None, "|", "War"), separator="|", what="genres")
    assert divided.to_pylist() == [["Drama", "Crime"], [], [], [], ["War"]]
    assert divided.type == NAMES


def test_without_a_separator_a_cell_is_one_category():
    assert categories(cells("a|b", " ", None), separator=None, what="genres").to_pylist() == [["a|b"], [], []]


def test_lists_of_categories_are_taken_as_they_are_even_from_the_middle_of_an_array():
    lists = cells(["x"], ["a", None, ""], None, [], ["b"]).slice(1)
    assert categories(lists, separator="|", what="genres").to_pylist() == [["a"], [], [], ["b"]]


def test_numbers_of_every_kind_of_column():
    assert numbers(cells("4.5", " 3 ", "1e3"), what="x").values.to_pylist() == [4.5, 3.0, 1000.0]
    assert numbers(cells(decimal.Decimal("1.5")), what="x").values.to_pylist() == [1.5]
    assert numbers(cells(True, None), what="x").values.to_pylist() == [1.0, None]
    # Beyond 2^53 the nearest float is taken.
    assert numbers(cells(2**63, kind=pa.uint64()), what="x").values.to_pylist() == [2.0**63]


def test_a_word_is_no_number_and_a_blank_cell_is_missing():
    read = numbers(cells("4", "four", "", "  ", None), what="x")
    assert read.values.to_pylist() == [4.0, None, None, None, None]
    assert read.misfits.to_pylist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("unit", "cell", "expected_ms"),
    [
        ("s", "964982703", 964_982_703_000),
        ("s", "964982703.25", 964_982_703_250),
        ("ms", "964982703250", 964_982_703_250),
        ("us", "964982703250999", 964_982_703_251),
        ("ns", "964982703250000000", 964_982_703_250),
        ("iso", "2000-07-30", 964_915_200_000),
        ("iso", "2000-07-30 18:45", 964_982_700_000),
        ("iso", "2000-07-30T18:45:03", 964_982_703_000),
        ("iso", "2000-07-30T18:45:03Z", 964_982_703_000),
        ("iso", "2000-07-30T20:45:03.250999+02:00", 964_982_703_250),
        ("iso", " 2000-07-30T13:15:03-0530 ", 964_982_703_000),
        ("iso", "2000-02-29", 951_782_400_000),
    ],
)
def test_instants_in_every_unit(unit, cell, expected_ms):
    read = instants(cells(cell), unit=unit, what="t")
    assert at_ms(read.values) == [expected_ms]
    assert read.misfits.to_pylist() == [False]


@pytest.mark.parametrize(
    ("unit", "cell"),
    [
        *[("s", cell) for cell in ("yesterday", "2000-07-30", "nan", "inf", "1e30", "-1e18")],
        *[
            ("iso", cell)
            for cell in ("2000-02-30", "1900-02-29", "2000-04-31", "2000-13-01", "2000-7-30", "30.07.2000")
        ],
        *[("iso", cell) for cell in ("2000-07-30T24:00", "2000-07-30T18:60", "2000-07-30Z", "2000", "30.07.2000")],
        *[("iso", cell) for cell in ("2000-07-30T18:45:03+25:00", "2000-07-30T18:45:03 Berlin", "\u0662000-07-30")],
    ],
)
def test_what_is_no_instant_is_a_misfit_whatever_stands_beside_it(unit, cell):
    good = "964982703" if unit == "s" else "2000-07-30"
    read = instants(cells(good, cell, None), unit=unit, what="t")
    assert read.misfits.to_pylist() == [False, True, False]
    assert read.values.is_null().to_pylist() == [False, True, True]


def test_columns_that_are_times_need_no_unit():
    noon = datetime(2000, 7, 30, 12, tzinfo=UTC)
    for column in (
        cells(noon.replace(tzinfo=None), kind=pa.timestamp("ns")),
        cells(noon, kind=pa.timestamp("us", tz="America/New_York")),
        cells(noon, kind=pa.timestamp("s", tz="UTC")),
    ):
        assert at_ms(instants(column, unit="iso", what="t").values) == [964_958_400_000]
    assert at_ms(instants(cells(date(2000, 7, 30)), unit="s", what="t").values) == [964_915_200_000]


def test_a_time_that_milliseconds_cannot_hold_is_a_misfit():
    read = instants(cells(2**62, kind=pa.timestamp("s")), unit="s", what="t")
    assert read.misfits.to_pylist() == [True]


@pytest.mark.parametrize("kind", TYPES_THAT_SAY_NOTHING, ids=str)
def test_a_column_of_an_unfitting_type_is_named(kind):
    column = pa.chunked_array([pa.nulls(2, kind)])
    for read in (
        lambda: texts(column, what="log.parquet: column 'x'"),
        lambda: categories(column, separator=None, what="log.parquet: column 'x'"),
        lambda: numbers(column, what="log.parquet: column 'x'"),
        lambda: instants(column, unit="s", what="log.parquet: column 'x'"),
        lambda: instants(column, unit="iso", what="log.parquet: column 'x'"),
    ):
        with pytest.raises(SchemaMismatch, match=r"log\.parquet: column 'x' is .*, expected text"):
            read()


@given(st.lists(st.text(max_size=12) | st.none(), max_size=5), st.sampled_from(TIME_UNITS))
def test_no_text_makes_the_reading_of_a_column_fail(values, unit):
    column = pa.chunked_array([pa.array([*values, "7"], pa.string())])
    for read in (numbers(column, what="x"), instants(column, unit=unit, what="x")):
        assert len(read.values) == len(read.misfits) == len(column)
        assert read.misfits.null_count == 0
    assert len(categories(column, separator="|", what="x")) == len(column)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)), st.sampled_from(["T", " "]))
def test_every_iso_instant_is_read_as_python_reads_it(instant, between):
    whole = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    expected = round((whole - datetime(1970, 1, 1)).total_seconds() * 1000)
    assert at_ms(instants(cells(whole.isoformat(between)), unit="iso", what="t").values) == [expected]
