import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SchemaMismatch, SourceDamaged
from features.sources.quoted import read_blocks
from features.sources.strict_rows import Dialect

COMMA = Dialect(delimiter=b",", quote=b'"')
PIECES = [b",", b'"', b"\n", b"a", b'""', b"\r\n", b"1", b'"x"', b" ", "é".encode(), b"\xe9", b"\r", b"\0", b',"p\nq",']


def read(
    content: bytes, *columns: str, dialect: Dialect = COMMA, header: tuple[str, ...] = (), block_bytes: int = 1 << 20
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Good rows as (source_row, cells...) and bad ones as (source_row, reason, raw)."""
    stream = io.BytesIO(content)
    blocks = list(
        read_blocks(stream, name="log.csv", dialect=dialect, columns=columns, header=header, block_bytes=block_bytes)
    )
    good = [tuple(row[name] for name in ("source_row", *columns)) for b in blocks for row in b.cells.to_pylist()]
    bad = [
        tuple(row[name] for name in ("source_row", "reason", "raw")) for b in blocks for row in b.unparsed.to_pylist()
    ]
    return good, bad


def test_columns_are_found_by_name_in_any_order():
    good, bad = read(b"a,b,c\n1,2,3\n4,5,6\n", "c", "a")
    assert good == [(0, "3", "1"), (1, "6", "4")]
    assert bad == []


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n3,4\n",
        b"a,b\n1,2\n3,4",
        b"a,b\r\n1,2\r\n3,4\r\n",
        b"a,b\r1,2\r3,4\r",
        b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
        b'"a","b"\n"1","2"\n"3","4"\n',
    ],
    ids=["unix", "no last line end", "windows", "old mac", "byte order mark", "all quoted"],
)
def test_line_ends_a_byte_order_mark_and_quotes_change_nothing(content):
    assert read(content, "a", "b") == ([(0, "1", "2"), (1, "3", "4")], [])


def test_quotes_may_enclose_delimiters_quotes_and_line_ends():
    good, bad = read(b'a,b\n"x,y","say ""hi"""\n"two\nlines",\n', "a", "b")
    assert good == [(0, "x,y", 'say "hi"'), (1, "two\nlines", "")]
    assert bad == []


def test_rows_that_do_not_fit_are_kept_as_they_stood_and_the_others_keep_their_places():
    good, bad = read(b'a,b\n1\n2,3\n4,5,6\n"p\nq"\n7,8\n', "a")
    assert good == [(1, "2"), (4, "7")]
    assert bad == [(0, "not 2 columns", "1"), (2, "not 2 columns", "4,5,6"), (3, "not 2 columns", '"p\nq"')]


def test_a_quote_that_closes_far_below_takes_one_row_of_its_own_and_not_a_silent_one():
    # The quote of row 1 closes at that of row 3, where text follows it: one row of three lines is out of place.
    good, bad = read(b'a,b\n1,2\n3,"4\n5,6\n7,"8"\n9,10\n', "a", "b")
    assert good == [(0, "1", "2"), (2, "9", "10")]
    assert bad == [(1, "a quote out of place", '3,"4\n5,6\n7,"8"')]


def test_a_quote_inside_a_value_without_quotes_is_part_of_it():
    assert read(b'a,b\n5" disk,2\n', "a") == ([(0, '5" disk')], [])


def test_bytes_that_are_not_utf8_set_their_row_apart_alone():
    good, bad = read(b"a,b\ncaf\xe9,2\ncaf\xc3\xa9,4\n", "a")
    assert good == [(1, "café")]
    assert bad == [(0, "not UTF-8", "caf\ufffd,2")]


def test_an_empty_line_is_a_row_of_empty_cells():
    assert read(b"a,b\n\n1,2\n\n", "a", "b") == ([(0, "", ""), (1, "1", "2"), (2, "", "")], [])


def test_a_header_may_be_given_for_a_file_that_has_none():
    assert read(b"1,2\n3,4\n", "b", header=("a", "b")) == ([(0, "2"), (1, "4")], [])


def test_without_a_quote_character_quotes_are_text():
    tabs = Dialect(delimiter=b"\t", quote=b"")
    assert read(b'a\tb\n"x\ty"\n', "a", "b", dialect=tabs) == ([(0, '"x', 'y"')], [])


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_text_of_a_million_characters_is_read_whole(quote):
    text = "x" * 1_000_000
    good, bad = read(f"a,b\n1,{quote}{text}{quote}\n2,y\n".encode(), "b", block_bytes=1000)
    assert good == [(0, text), (1, "y")]
    assert bad == []


def test_a_million_characters_are_read_where_a_stray_quote_stands_beside_them():
    text = "x" * 1_000_000
    good, bad = read(f'a,b\n1,"{text}"\n5" disk,y\n'.encode(), "b")
    assert good == [(0, text), (1, "y")]
    assert bad == []


@pytest.mark.parametrize("content", [b'a,b\n1,2\n3,"4\n5,6\n', b'a,b\n1,2\n"'], ids=["last column", "last byte"])
@pytest.mark.parametrize("block_bytes", [4, 1000])
def test_a_quote_that_never_closes_is_refused_by_its_row(content, block_bytes):
    with pytest.raises(SourceDamaged, match=r"log\.csv: row 1 has no end: a quote opens a value that never closes"):
        read(content, "a", block_bytes=block_bytes)


def test_a_missing_column_is_named_with_those_that_are_there():
    with pytest.raises(SchemaMismatch, match=r"log\.csv: no column 'rating' among \['a;b'\]; map another column"):
        read(b"a;b\n1;2\n", "rating")


def test_a_column_that_stands_twice_is_refused():
    with pytest.raises(SchemaMismatch, match=r"log\.csv: more than one column 'a' among \['a', 'b', 'a'\]"):
        read(b"a,b,a\n1,2,3\n", "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header and rows"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xe9,b\n1,2\n", r"its header cannot be read \(not UTF-8\)"),
        (b'"a"x,b\n1,2\n', r"its header cannot be read \(',' expected after '\"'\)"),
    ],
    ids=["empty", "only a byte order mark", "not UTF-8", "quote out of place"],
)
def test_a_file_without_a_readable_header_is_refused(content, message):
    with pytest.raises(SourceDamaged, match=message):
        read(content, "a")


def strict_reading(content: bytes, num_columns: int) -> tuple[list[tuple[object, ...]], list[int]] | None:
    """The whole of a text by Python's csv module alone; None where its last quoted value does not end."""
    lines = list(io.StringIO(content.decode(errors="surrogateescape"), newline=""))
    rows = csv.reader(lines, strict=True)
    good: list[tuple[object, ...]] = []
    bad: list[int] = []
    while True:
        first, place = rows.line_num, len(good) + len(bad)
        try:
            row = next(rows)
        except StopIteration:
            return good, bad
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                return None
            bad.append(place)
            continue
        text = "".join(lines[first : rows.line_num])
        is_text = text == text.encode(errors="replace").decode()
        if is_text and (not row or len(row) == num_columns):
            good.append((place, *(row or [""] * num_columns)))
        else:
            bad.append(place)


@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join),
    st.integers(1, 3),
    st.sampled_from([1, 3, 7, 16, 1000]),
)
def test_any_text_in_any_blocks_reads_as_the_strict_parser_reads_it_in_one(content, num_columns, block_bytes):
    names = tuple("abc"[:num_columns])
    expected = strict_reading(content.removeprefix(b"\xef\xbb\xbf"), num_columns)
    if expected is None:
        with pytest.raises(SourceDamaged, match="has no end"):
            read(content, *names, header=names, block_bytes=block_bytes)
    else:
        good, bad = read(content, *names, header=names, block_bytes=block_bytes)
        assert good == expected[0]
        assert [row for row, _, _ in bad] == expected[1]
