"""Facts about films (directors, cast, writers, countries) from the package bokeh-sampledata, found by title and year.

Owns the reading of `movies.db` (Wikidata, CC0) and the normalising of titles. Knows no rating.
"""

import importlib.metadata
import re
import sqlite3
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from features.errors import SourceDamaged, SourceMissing

PACKAGE = "bokeh-sampledata"
FILMS_SQL = 'SELECT "Title", "Year", "Director", "Cast", "Writer", "Country" FROM omdb ORDER BY "ID"'
ARTICLES = frozenset(
    "the a an la le les l el los las il lo gli i un une una uno der die das ein eine den det de het o os as".split()
)
BRACKETS = re.compile(r"\(([^)]*)\)")
FINAL_ARTICLE = re.compile(r"^(.*), (\S+)$")
ALSO_KNOWN_AS = re.compile(r"^a\.?k\.?a\.?\s+", re.IGNORECASE)
SUBTITLE = re.compile(r":.*$")
NAME_SUFFIX = re.compile(r", (Jr\.?|Sr\.?|I{2,3}|IV)(?=,|$)")
# What NFKD leaves as it is, and what words are spelled with.
SPELLED_OUT = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "&": " and ", "'": "", "\u2019": ""})


@dataclass(frozen=True)
class Film:
    """What movies.db says about one film.

    It lists a cast by name, not by billing; `actors` begins with those who are in most of its films.
    """

    title: str
    year: int
    directors: list[str]
    actors: list[str]
    writers: list[str]
    countries: list[str]


class FilmFacts:
    """Films by title and year."""

    def __init__(self, films: list[Film]) -> None:
        self._by_title: dict[str, list[Film]] = defaultdict(list)
        self._by_main_title: dict[str, list[Film]] = defaultdict(list)
        for film in films:
            for key in title_keys(film.title):
                self._by_title[key].append(film)
            if ":" in film.title:
                self._by_main_title[_without_subtitle(film.title)].append(film)

    def find(self, title: str, year: int | None) -> Film | None:
        """The one film that this must be, or None.

        Tried in turn: any form of the title in that year; the same a year earlier or later; in that year, a film that
        differs by a subtitle (Star Wars was given one later). Where a try fits two films, neither is taken.
        """
        if year is None:
            return None
        keys = title_keys(title)
        same_title = [film for key in keys for film in self._by_title.get(key, [])]
        by_subtitle = self._by_title.get(_without_subtitle(title), []) if ":" in title else []
        by_subtitle = by_subtitle + self._by_main_title.get(keys[0], []) if keys else by_subtitle
        for films, years_off in ((same_title, 0), (same_title, 1), (by_subtitle, 0)):
            fitting = {id(film): film for film in films if abs(film.year - year) == years_off}
            if fitting:
                return next(iter(fitting.values())) if len(fitting) == 1 else None
        return None


def read_films(path: Path | None = None) -> FilmFacts:
    """Read movies.db.

    Args:
        path: the file; by default that of the installed package, which is not imported.

    Raises:
        SourceMissing: no such file, or the package is not installed.
        SourceDamaged: the file is no movies.db.
    """
    with open_films(path) as connection:
        rows = connection.execute(FILMS_SQL).fetchall()
    num_films = Counter(actor for row in rows for actor in split_names(row[3]))
    films = [
        Film(
            title=title,
            year=year,
            directors=split_names(directors),
            actors=sorted(split_names(actors), key=lambda name: (-num_films[name], name)),
            writers=split_names(writers),
            countries=split_names(countries),
        )
        for title, year, directors, actors, writers, countries in rows
        if title and year
    ]
    return FilmFacts(films)


@contextmanager
def open_films(path: Path | None = None) -> Iterator[sqlite3.Connection]:
    """movies.db to read from; see `read_films`."""
    path = path or _installed()
    if not path.is_file():
        raise SourceMissing(f"film facts: no file {path}; run `make setup`, which installs {PACKAGE}")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise SourceDamaged(f"film facts: {path} is not {PACKAGE}'s movies.db ({error}); run `make setup`") from error


def title_keys(title: str) -> list[str]:
    """The title and its alternative titles in brackets, normalised; the title itself first."""
    forms = [BRACKETS.sub("", title), *BRACKETS.findall(title)]
    keys = [title_key(ALSO_KNOWN_AS.sub("", form)) for form in forms]
    return list(dict.fromkeys(key for key in keys if key))


def title_key(title: str) -> str:
    """Lower-case words without accents or punctuation, a final article in front: `Postino, Il` -> `il postino`."""
    final = FINAL_ARTICLE.match(title.strip())
    return _words(f"{final[2]} {final[1]}" if final and _words(final[2]) in ARTICLES else title)


def _without_subtitle(title: str) -> str:
    return title_key(SUBTITLE.sub("", title))


def _words(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()
    return re.sub(r"[^a-z0-9]+", " ", plain.translate(SPELLED_OUT)).strip()


def split_names(text: str | None) -> list[str]:
    """Names from a comma-separated list; `Robert Downey, Jr.` is one."""
    together = NAME_SUFFIX.sub(r" \1", text or "")
    return [name for name in (part.strip() for part in together.split(",")) if name]


def _installed() -> Path:
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceMissing(f"film facts: the package {PACKAGE} is not installed; run `make setup`") from error
    return Path(str(distribution.locate_file("bokeh_sampledata/_data/movies.db")))
