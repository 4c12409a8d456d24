import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.sources.delimited import numbers, read_lines, whole_numbers

COLUMNS = ["a", "b"]


def test_each_line_becomes_a_row_with_its_place_after_the_header():
    table, unparsed = read_lines(b"a\tb\n1\t2\n3\t4\n", columns=COLUMNS, delimiter="\t")
    assert table.to_pylist() == [
        {"a": "1", "b": "2", "raw": "1\t2", "source_row": 0},
        {"a": "3", "b": "4", "raw": "3\t4", "source_row": 1},
    ]
    assert unparsed.num_rows == 0


def test_lines_with_another_number_of_tokens_are_kept_apart_as_they_stood():
    table, unparsed = read_lines(b"a\tb\n1\n1\t2\n1\t2\t3\n\n", columns=COLUMNS, delimiter="\t")
    assert table["source_row"].to_pylist() == [1]
    assert unparsed.to_pylist() == [
        {"raw": "1", "source_row": 0, "reason": "not 2 tokens"},
        {"raw": "1\t2\t3", "source_row": 2, "reason": "not 2 tokens"},
        {"raw": "", "source_row": 3, "reason": "not 2 tokens"},
    ]


def test_a_line_that_is_not_utf8_is_kept_apart_and_the_next_ones_are_read():
    table, unparsed = read_lines(b"a\tb\n\xff\t2\n\xc3\xa9\t4\n", columns=COLUMNS, delimiter="\t")
    assert table["a"].to_pylist() == ["é"]
    assert unparsed["reason"].to_pylist() == ["not UTF-8"]


def test_windows_line_ends_and_a_missing_last_one_change_nothing():
    unix, _ = read_lines(b"a\tb\n1\t2\n3\t4\n", columns=COLUMNS, delimiter="\t")
    windows, _ = read_lines(b"a\tb\r\n1\t2\r\n3\t4", columns=COLUMNS, delimiter="\t")
    assert windows.equals(unix)


def test_a_file_with_only_a_header_has_no_rows():
    table, unparsed = read_lines(b"a\tb\n", columns=COLUMNS, delimiter="\t")
    assert (table.num_rows, unparsed.num_rows) == (0, 0)
    assert table.column_names == ["a", "b", "raw", "source_row"]


def test_numbers_are_null_where_the_token_is_none():
    tokens = pa.chunked_array([["3", " 4.5 ", "+1e3", "-.5", "inf", "NaN", "", "3,5", "0x10", "1_000", "three", None]])
    parsed = numbers(tokens).to_pylist()
    assert parsed[:5] == [3.0, 4.5, 1000.0, -0.5, float("inf")]
    assert parsed[5] != parsed[5]
    assert parsed[6:] == [None] * 6


def test_whole_numbers_are_null_where_the_token_is_another_or_too_long_for_ms():
    tokens = pa.chunked_array([["881250949", "+7", "-1", "8.0", "", "9" * 15, "9" * 16, "1e3"]])
    assert whole_numbers(tokens).to_pylist() == [881250949, 7, -1, None, None, 10**15 - 1, None, None]


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_every_line_is_in_exactly_one_of_the_two_tables(lines):
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    table, unparsed = read_lines(b"\n".join([b"a\tb", *lines]) + b"\n", columns=COLUMNS, delimiter="\t")
    rows = table["source_row"].to_pylist() + unparsed["source_row"].to_pylist()
    assert sorted(rows) == list(range(len(lines)))


@given(st.text(max_size=12))
def test_no_token_makes_the_parsing_of_a_column_fail(token):
    tokens = pa.chunked_array([[token, "1"]])
    assert numbers(tokens).to_pylist()[1] == 1.0
    assert whole_numbers(tokens).to_pylist()[1] == 1
