"""Rows that no log should hold, each alone among good ones, in every layout that a source reads."""

import gzip
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from features.events import Source
from features.sources.files import EventColumns, EventFile, Files
from features.sources.movielens import MovieLens
from features.sources.tabular import Layout
from tests.features.hostile import Preparing

PLACE = 3  # of the row under test
GOOD = [(b"1", b"1", b"4", b"100"), (b"1", b"2", b"4", b"101"), (b"1", b"3", b"4", b"102")]
GOOD += [(b"2", b"1", b"4", b"103"), (b"2", b"2", b"4", b"104"), (b"2", b"3", b"4", b"105")]
HEADER = [b"userId", b"movieId", b"rating", b"timestamp"]
COLUMNS = EventColumns(query_id="userId", item_id="movieId", value="rating")
MOVIES = [(b"1", b"Heat (1995)", b"Crime"), (b"2", b"Up (2009)", b"Comedy"), (b"3", b"Ran (1985)", b"Drama")]


@dataclass(frozen=True)
class Bad:
    """A row, and why it is set aside: in `table`, if not among the events."""

    cells: tuple[bytes, ...]
    reason: str


def row(query: str = "1", item: str = "2", value: str = "4", time: str = "106", *, reason: str) -> Bad:
    return Bad((query.encode(), item.encode(), value.encode(), time.encode()), reason)


NUMBER, FINITE, LARGE = "value is no number", "value not finite", "value too large"
TIME, WIDTH, UTF8 = "time is no number of seconds", "not 4 columns", "not UTF-8"
# One of each kind, for every layout; and more of them for one.
OF_EACH_KIND = {
    "a word for a value": row(value="four", reason=NUMBER),
    "no value": row(value="", reason="value missing"),
    "nan": row(value="nan", reason=FINITE),
    "infinity": row(value="-inf", reason=FINITE),
    "a value beyond 32 bits": row(value="1e39", reason=LARGE),
    "a word for a time": row(time="yesterday", reason=TIME),
    "a date for seconds": row(time="2000-01-01T00:00:00Z", reason=TIME),
    "no time": row(time="", reason="time missing"),
    "a time before 1970": row(time="-1", reason="time negative"),
    "a time far ahead": row(time="99999999999", reason="time after now"),
    "a time beyond counting": row(time="1e30", reason=TIME),
    "no query": row(query="", reason="query_id missing"),
    "no item": row(item="", reason="item_id missing"),
    "a copy": Bad(GOOD[0], "exact copy of an earlier row"),
    "too few values": Bad((b"1", b"2", b"4"), WIDTH),
    "too many values": Bad((b"1", b"2", b"4", b"106", b"more"), WIDTH),
    "one value": Bad((b"1",), WIDTH),
    "a hundred thousand values": Bad((b"1",) * 100_000, WIDTH),
    "a value of a million characters": row(value="4" * 999_999 + "x", reason=NUMBER),
    "a NUL in a value": row(value="4\0", reason=NUMBER),
}
NO_NUMBERS = ("4.5.6", "4 5", "0x10", "1_000", "\uff14", "\u00bd", "--1", "1e", "true", "NULL", "None", "N/A", "#REF!")
NO_NUMBERS += ("$4", "4 stars", "\u22121", "\u200b4", "1e5e5", "+", ".", "e5", "\x1a", "Infinit", "4;5", "\u0664")
NOT_FINITE = ("NaN", "Inf", "+inf", "Infinity", "-Infinity", "1e999", "-1e400", "nAn")
NO_TIMES = ("2000-01-01", "nan", "inf", "-inf", "-1e18", "12:30", "\uff11", "1h", "0x10", "now", "1 000", "1e1000")
MORE = {
    **{f"value {word!a}": row(value=word, reason=NUMBER) for word in NO_NUMBERS},
    **{f"value {word}": row(value=word, reason=FINITE) for word in NOT_FINITE},
    **{f"time {word!a}": row(time=word, reason=TIME) for word in NO_TIMES},
    "value -3.5e38": row(value="-3.5e38", reason=LARGE),
    "value of spaces": row(value="  ", reason="value missing"),
    "time of spaces": row(time="  ", reason="time missing"),
    "time -0.001": row(time="-0.001", reason="time negative"),
    "time 2e12": row(time="2e12", reason="time after now"),
    "query of spaces": row(query=" \t ", reason="query_id missing"),
    "item of a no-break space": row(item="\u00a0", reason="item_id missing"),
    "nothing but delimiters": row("", "", "", "", reason="query_id missing"),
    "a time of a million digits": row(time="1" * 1_000_000, reason=TIME),
    "a NUL in an id": row(query="1\0", reason="unknown query"),
    "an id of NULs": row(item="\0\0", reason="unknown item"),
}
NOT_UTF8 = {
    "a byte of Latin-1": b"caf\xe9",
    "half a character": b"\xc3",
    "a surrogate": b"\xed\xa0\x80",
    "an overlong slash": b"\xc0\xaf",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "UTF-16": "1".encode("utf-16"),
}
# Lines as they stand; what they say of quotes holds for commas and tabs alike.
LINES = {
    "text after a closing quote": (b'"1"x,2,4,106', "a quote out of place"),
    "a quote and a half": (b'"1""x"y,2,4,106', "a quote out of place"),
    "a quote in a number": (b'1,2,"4""",106', NUMBER),
    "a line end in a number": (b'1,2,"4\n5",106', NUMBER),
    "a delimiter in a number": (b'1,2,"4,5",106', NUMBER),
    "an empty line": (b"", "query_id missing"),
    "a line of spaces": (b"   ", WIDTH),
    "a comment": (b"# exported by hand", WIDTH),
    "the header again": (b"userId,movieId,rating,timestamp", NUMBER),
    "a byte order mark in the middle": (b"\xef\xbb\xbf1,2,4", WIDTH),
    "another delimiter": (b"1;2;4;106", WIDTH),
    "a quoted line": (b'"1,2,4,106"', WIDTH),
    "json": (b'{"userId": 1, "movieId": 2}', WIDTH),
}

Write = Callable[[Path, Sequence[bytes]], Source]


def delimited(
    name: str, delimiter: bytes, *, header: bool = True, end: bytes = b"\n", layout: Layout | None = None
) -> Write:
    """A log of lines in which `,` stands for the delimiter."""

    def write(folder: Path, lines: Sequence[bytes]) -> Source:
        text = end.join([*([b",".join(HEADER)] if header else []), *lines, b""]).replace(b",", delimiter)
        path = folder / name
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return Files(events=EventFile(path=path, columns=COLUMNS, layout=layout or Layout()))

    return write


def utf16(folder: Path, lines: Sequence[bytes]) -> Source:
    path = folder / "log.csv"
    path.write_bytes(b"\n".join([b",".join(HEADER), *lines, b""]).decode().encode("utf-16"))
    return Files(events=EventFile(path=path, columns=COLUMNS, layout=Layout(encoding="utf-16")))


def movielens_csv(folder: Path, lines: Sequence[bytes]) -> Source:
    (folder / "ratings.csv").write_bytes(b"\r\n".join([b",".join(HEADER), *lines, b""]))
    (folder / "movies.csv").write_bytes(
        b"\r\n".join([b"movieId,title,genres", *(b",".join(movie) for movie in MOVIES), b""])
    )
    return MovieLens(path=folder)


def movielens_dat(folder: Path, lines: Sequence[bytes]) -> Source:
    with zipfile.ZipFile(folder / "ml-10m.zip", "w") as archive:
        archive.writestr("ml-10M100K/ratings.dat", b"\n".join([*lines, b""]).replace(b",", b"::"))
        archive.writestr("ml-10M100K/movies.dat", b"\n".join(b"::".join(movie) for movie in MOVIES))
    return MovieLens(path=folder / "ml-10m.zip")


CSV = delimited("log.csv", b",")
LAYOUTS: dict[str, Write] = {
    "csv": CSV,
    "csv.gz of Windows": delimited("log.csv.gz", b",", end=b"\r\n"),
    "tsv": delimited("log.tsv", b"\t"),
    "two colons without a header": delimited(
        "log.dat",
        b"::",
        header=False,
        layout=Layout(delimiter="::", quote="", header=[name.decode() for name in HEADER]),
    ),
    "utf-16": utf16,
    "MovieLens csv": movielens_csv,
    "MovieLens dat in a zip": movielens_dat,
}


@pytest.fixture(scope="module")
def preparing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparing]:
    one = Preparing(tmp_path_factory.mktemp("good"))
    yield one
    one.stop()


def check(preparing: Preparing, folder: Path, write: Write, line: bytes, reason: str) -> None:
    """One row is read more than there are good ones, and that one is set aside, for the reason, by its place."""
    lines = [b",".join(cells) for cells in GOOD]
    source = write(folder, [*lines[:PLACE], line, *lines[PLACE:]])
    outcome = preparing.attempt(lambda: source, folder / "home")
    assert outcome.error == ""
    assert outcome.read["events"] == len(GOOD) + 1
    assert outcome.set_aside["events"] == {reason: 1}
    assert [rejected["source_row"] for rejected in outcome.rejected_events] == [PLACE]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", OF_EACH_KIND)
def test_a_bad_row_is_set_aside_and_counted_in_every_layout(preparing, tmp_path, layout, kind):
    bad = OF_EACH_KIND[kind]
    check(preparing, tmp_path, LAYOUTS[layout], b",".join(bad.cells), bad.reason)


@pytest.mark.parametrize("kind", MORE)
def test_a_value_or_a_time_that_only_looks_like_one_is_set_aside(preparing, tmp_path, kind):
    check(preparing, tmp_path, CSV, b",".join(MORE[kind].cells), MORE[kind].reason)


@pytest.mark.parametrize("kind", LINES)
def test_a_line_that_is_no_row_is_set_aside(preparing, tmp_path, kind):
    line, reason = LINES[kind]
    check(preparing, tmp_path, CSV, line, reason)


@pytest.mark.parametrize(
    ("layout", "place"), [("csv", 0), ("csv", 2), ("csv.gz of Windows", 1), ("MovieLens dat in a zip", 0)]
)
@pytest.mark.parametrize("kind", NOT_UTF8)
def test_a_row_that_is_not_utf8_is_set_aside(preparing, tmp_path, kind, layout, place):
    cells = [b"1", b"2", b"4", b"106"]
    cells[place] = NOT_UTF8[kind]
    check(preparing, tmp_path, LAYOUTS[layout], b",".join(cells), UTF8)


def test_of_two_rows_of_one_action_the_later_stays(preparing, tmp_path):
    lines = [b",".join(cells) for cells in GOOD]
    source = CSV(tmp_path, [*lines, b"1,1,3,100"])  # another value for the first
    outcome = preparing.attempt(lambda: source, tmp_path / "home")
    assert outcome.set_aside["events"] == {"replaced by a later row of the same action": 1}
    assert [rejected["source_row"] for rejected in outcome.rejected_events] == [0]


def test_bad_rows_of_every_kind_at_once_are_all_counted(preparing, tmp_path):
    bad = {kind: one for kind, one in {**OF_EACH_KIND, **MORE}.items() if kind != "a copy"}
    lines = [b",".join(cells) for cells in [*GOOD, *(one.cells for one in bad.values())]]
    source = CSV(tmp_path, lines)
    outcome = preparing.attempt(lambda: source, tmp_path / "home")
    reasons = [one.reason for one in bad.values()]
    assert outcome.set_aside["events"] == {reason: reasons.count(reason) for reason in set(reasons)}
    assert outcome.read["events"] == len(GOOD) + len(bad)
