"""Rows of items and queries that are none, and MovieLens releases that are broken."""

import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from features.events import Source
from features.sources.attributes import ItemFile, QueryFile
from features.sources.files import EventFile, Files
from features.sources.movielens import MovieLens
from features.sources.movielens100k import FOLDER, HEADERS, MovieLens100K
from tests.features.hostile import Outcome, Preparing, refused

LOG = "query_id,item_id,timestamp\nq,a,1\nq,b,2\nq,c,3\n"
LONG = "x" * 1_000_000
ATTRIBUTES = "movieId,title,genres,price,since\na,Heat,Crime|Drama,3,1\nb,Up,Comedy,4,2\nc,Ran,,5,3\n"
# A row of items, why it is set aside if it is, and the counts of cells that are no numbers.
ITEM_ROWS: dict[str, tuple[str, str, int]] = {
    "an id twice": ("a,Heat again,,1,1", "item_id repeated", 0),
    "no id": (",Nobody,,1,1", "item_id missing", 0),
    "an id of spaces": ("  ,Nobody,,1,1", "item_id missing", 0),
    "an id with a NUL": ("d\0,Nobody,,1,1", "item_id holds a NUL", 0),
    "a date for seconds": ("d,Late,,1,2000-01-01", "available_from is no number of seconds", 0),
    "a time beyond counting": ("d,Late,,1,1e300", "available_from is no number of seconds", 0),
    "too few columns": ("d,Short", "not 5 columns", 0),
    "a quote out of place": ('"d"x,Quoted,,1,1', "a quote out of place", 0),
    "an unknown price": ("d,Free,,gratis,1", "", 1),
    "a price of infinity": ("d,Dear,,inf,1", "", 1),
    "no attribute at all": ("d,,,,", "", 0),
    "a title of a million letters": (f"d,{LONG},,1,1", "", 0),
    "a million genres": ("d,Many," + "g|" * 500_000 + ",1,1", "", 0),
    "a genre of a million letters": (f"d,Long,{LONG},1,1", "", 0),
    "a title of NULs and controls": ("d,\0\x01\x1f\x7f,,1,1", "", 0),
    "a title of right-to-left marks": ("d,\u202e\u200f\ufeff,\U0001f3ac,1,1", "", 0),
    "separators alone": ("d,Bars,||||,1,1", "", 0),
}


@pytest.fixture(scope="module")
def preparing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparing]:
    one = Preparing(tmp_path_factory.mktemp("good"))
    yield one
    one.stop()


@pytest.fixture
def attempt(preparing: Preparing, tmp_path: Path) -> Callable[[Callable[[], Source]], Outcome]:
    return lambda make: preparing.attempt(make, tmp_path / "home")


@pytest.mark.parametrize("kind", ITEM_ROWS)
def test_a_bad_row_of_items_is_set_aside_or_its_cell_counted(attempt, tmp_path, kind):
    row, reason, no_numbers = ITEM_ROWS[kind]
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "movies.csv").write_text(f"{ATTRIBUTES}{row}\n", encoding="utf-8")
    items = ItemFile(
        path=tmp_path / "movies.csv",
        id="movieId",
        text=["title"],
        categories=["genres"],
        numbers=["price"],
        separator="|",
        available_from="since",
    )
    outcome = attempt(lambda: Files(events=EventFile(path=tmp_path / "log.csv"), items=items))
    assert (outcome.error, outcome.read["items"]) == ("", 4)
    assert outcome.set_aside.get("items", {}) == ({reason: 1} if reason else {})
    assert outcome.facts.get("items_price_no_number", 0) == no_numbers


QUERY_ROWS: dict[str, tuple[str, str, int]] = {
    "an id twice": ("q,twice,,1", "query_id repeated", 0),
    "no id": (",nobody,,1", "query_id missing", 0),
    "an id with a NUL": ("\0,nobody,,1", "query_id holds a NUL", 0),
    "too many columns": ("p,1,2,3,4", "not 4 columns", 0),
    "no age": ("p,hello,writer,old", "", 1),
    "a text of a million letters": (f"p,{LONG},writer,1", "", 0),
}


@pytest.mark.parametrize("kind", QUERY_ROWS)
def test_a_bad_row_of_queries_is_set_aside_or_its_cell_counted(attempt, tmp_path, kind):
    row, reason, no_numbers = QUERY_ROWS[kind]
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "users.csv").write_text(f"uid,says,job,age\nq,hi,writer,49\n{row}\n")
    queries = QueryFile(path=tmp_path / "users.csv", id="uid", text="says", categories=["job"], numbers=["age"])
    outcome = attempt(lambda: Files(events=EventFile(path=tmp_path / "log.csv"), queries=queries))
    assert (outcome.error, outcome.read["queries"]) == ("", 2)
    assert outcome.set_aside.get("queries", {}) == ({reason: 1} if reason else {})
    assert outcome.facts.get("queries_age_no_number", 0) == no_numbers


def test_events_of_items_and_queries_that_their_files_do_not_hold_are_set_aside(attempt, tmp_path):
    (tmp_path / "log.csv").write_text(LOG + "q,z,4\np,a,5\n")
    (tmp_path / "items.csv").write_text("item_id\na\nb\nc\n")
    (tmp_path / "queries.csv").write_text("query_id\nq\n")
    source = Files(
        events=EventFile(path=tmp_path / "log.csv"),
        items=ItemFile(path=tmp_path / "items.csv"),
        queries=QueryFile(path=tmp_path / "queries.csv"),
    )
    outcome = attempt(lambda: source)
    assert outcome.set_aside["events"] == {"unknown item": 1, "unknown query": 1}


def test_a_file_of_items_without_one_leaves_no_event(attempt, tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text("item_id\n")
    source = Files(events=EventFile(path=tmp_path / "log.csv"), items=ItemFile(path=tmp_path / "items.csv"))
    refused(attempt(lambda: source), r"log\.csv: none of its 3 events is good: {'unknown item': 3}")


RATINGS = "userId,movieId,rating,timestamp\n1,1,4,1\n1,2,4,2\n"
MOVIES = "movieId,title,genres\n1,Heat (1995),Crime\n2,Up (2009),Comedy\n"
RELEASES: dict[str, tuple[dict[str, str], str]] = {
    "no movies": ({"ratings.csv": RATINGS}, r"SourceMissing: expected a file at .*movies\.csv"),
    "no ratings": ({"movies.csv": MOVIES}, "expected one folder with ratings.csv or ratings.dat"),
    "other columns": ({"ratings.csv": RATINGS.replace("userId", "user"), "movies.csv": MOVIES}, "no column 'userId'"),
    "movies without genres": ({"ratings.csv": RATINGS, "movies.csv": "movieId,title\n1,Heat\n"}, "no column 'genres'"),
    "no movie": ({"ratings.csv": RATINGS, "movies.csv": "movieId,title,genres\n"}, r"{'unknown item': 2}"),
    "ratings without a rating": ({"ratings.csv": RATINGS[:32], "movies.csv": MOVIES}, "holds no event"),
    "empty ratings": ({"ratings.csv": "", "movies.csv": MOVIES}, "ratings.csv is empty"),
    "an open quote": (
        {"ratings.csv": RATINGS, "movies.csv": MOVIES + '3,"Ran,Drama\n'},
        "movies.csv: row 2 has no end",
    ),
    "single colons": ({"ratings.dat": "1:1:4:1\n", "movies.dat": "1::Heat::Crime\n"}, r"{'not 4 columns': 1}"),
    "both formats": ({"ratings.csv": RATINGS, "ratings.dat": "1::1::4::1\n", "movies.csv": MOVIES}, r"movies\.dat"),
}


@pytest.mark.parametrize("kind", RELEASES)
def test_a_movielens_release_that_is_none_is_refused(attempt, tmp_path, kind):
    contents, message = RELEASES[kind]
    (tmp_path / "ml").mkdir()
    for name, content in contents.items():
        (tmp_path / "ml" / name).write_text(content)
    refused(attempt(lambda: MovieLens(path=tmp_path / "ml")), message)


def wheel(folder: Path, lines: Sequence[bytes], *, items: bytes = b"1\tHeat\t1995\tCrime\n") -> MovieLens100K:
    with sqlite3.connect(folder / "movies.db") as films:
        films.execute('CREATE TABLE omdb ("ID", "Title", "Year", "Director", "Cast", "Writer", "Country")')
    films.close()
    contents = {"inter": b"\n".join([*lines, b""]), "item": items, "user": b"1\t49\tM\twriter\t55105\n"}
    with zipfile.ZipFile(folder / "recbole.whl", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{FOLDER}.{name}", HEADERS[name].encode() + b"\n" + content)
    return MovieLens100K(wheel=folder / "recbole.whl", films=folder / "movies.db")


WHEEL_ROWS = {
    "a word": (b"1\t1\tfour\t2", "value is no number"),
    "nan": (b"1\t1\tnan\t2", "value not finite"),
    "a value beyond 32 bits": (b"1\t1\t1e39\t2", "value too large"),
    "a fraction of a second": (b"1\t1\t4\t2.5", "time is no whole number of seconds"),
    "a time before 1970": (b"1\t1\t4\t-2", "time negative"),
    "a time far ahead": (b"1\t1\t4\t999999999999999", "time after now"),
    "commas": (b"1,1,4,2", "not 4 tokens"),
    "not UTF-8": (b"\xff\t1\t4\t2", "not UTF-8"),
    "a NUL": (b"1\0\t1\t4\t2", "unknown query"),
    "an unknown item": (b"1\t9\t4\t2", "unknown item"),
    "a value of a million characters": (b"1\t1\t" + b"4" * 1_000_000 + b"\t2", "value not finite"),
}


@pytest.mark.parametrize("kind", WHEEL_ROWS)
def test_a_bad_row_of_the_small_movielens_is_set_aside(attempt, tmp_path, kind):
    line, reason = WHEEL_ROWS[kind]
    outcome = attempt(lambda: wheel(tmp_path, [b"1\t1\t4\t1", line]))
    assert (outcome.error, outcome.set_aside.get("events")) == ("", {reason: 1})


def test_a_small_movielens_without_items_is_refused(attempt, tmp_path):
    refused(attempt(lambda: wheel(tmp_path, [b"1\t1\t4\t1"], items=b"")), "none of its 1 events is good")
