"""Film search, an example collection: films as documents, and known-item queries that are made, not asked by people.

Owns the procedure. A document is a film of `movies.db` (package bokeh-sampledata): its title, and a line of genres,
year, countries, director and cast. A query is made from one film, chosen at random, by one of the TEMPLATES: two or
three of the film's facts in words, or its title as somebody half remembers it (a word left out, two letters swapped).
Judgements follow from the facts and nobody's opinion: the film that the query was made from has grade 2; any other film
to which every fact of the query applies as well has grade 1. A query to which more than MAX_OTHERS others fit says too
little and is made again. Numbers measured on this collection say whether the machinery works, not how people search.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from features.errors import FeaturesError
from features.sources.films import open_films, split_names

SQL = 'SELECT "imdbID", "Title", "Year", "Genre", "Director", "Cast", "Country" FROM omdb ORDER BY "imdbID"'
SHOWN_CAST = 6
MAX_OTHERS = 20
PARTS = (("train", 0.7), ("dev", 0.1), ("test", 0.2))
KNOWN_ITEM, ALSO_FITS = 2, 1


@dataclass(frozen=True)
class Document:
    """One film."""

    film_id: str
    title: str
    year: int
    genres: list[str]
    directors: list[str]
    cast: list[str]
    countries: list[str]

    @property
    def text(self) -> str:
        """A line of facts."""
        facts = [f"{', '.join(self.genres) or 'Film'} of {self.year}"]
        facts += [f"from {', '.join(self.countries)}"] if self.countries else []
        facts += [f"directed by {', '.join(self.directors)}"] if self.directors else []
        facts += [f"with {', '.join(self.cast[:SHOWN_CAST])}"] if self.cast else []
        return ", ".join(facts) + "."


Fact = tuple[str, str]  # its kind, and its value
Template = tuple[str, tuple[str, ...]]
# What a query says, and the kinds of facts that it needs.
TEMPLATES: tuple[Template, ...] = (
    ("{genre} film by {director}", ("genre", "director")),
    ("{genre} with {actor} from the {decade}", ("genre", "actor", "decade")),
    ("{actor} and {actor} together in a film", ("actor", "actor")),
    ("that {year} movie with {actor}", ("year", "actor")),
    ("film directed by {director} starring {actor}", ("director", "actor")),
    ("{country} {genre} of {year} by {director}", ("country", "genre", "year", "director")),
    ("{title}", ("title",)),
    ("{title} with {actor}", ("title", "actor")),
    ("{title} {year}", ("title", "year")),
)


def write_film_search(
    out_dir: Path, *, num_queries: int, seed: int, films: Path | None = None, progress: bool = True
) -> dict[str, int]:
    """Write corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv; the same seed gives the same bytes.

    Args:
        out_dir: made, or replaced when it is whole.
        num_queries: of all parts together.
        seed: of the choice of films, templates, facts and parts.
        films: movies.db; None for that of the installed package.
        progress: show a bar, where standard error is a terminal.

    Returns:
        Counts of documents, queries and judgements.
    """
    if num_queries < len(PARTS):
        raise FeaturesError(f"num_queries: expected at least {len(PARTS)}; got {num_queries}")
    documents = _documents(films)
    having = _index(documents)
    generator = np.random.default_rng(seed)
    queries: list[tuple[str, int, list[int]]] = []
    said: set[str] = set()
    with tqdm(total=num_queries, desc="film search", unit="query", disable=None if progress else True) as bar:
        while len(queries) < num_queries:
            place = int(generator.integers(len(documents)))
            made = _query(documents[place], having, generator=generator)
            if made is None or made[0] in said:
                continue
            text, others = made
            said.add(text)
            queries.append((text, place, sorted(others - {place})))
            bar.update()
    fresh = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "qrels").mkdir(parents=True)
    _write_lines(
        fresh / "corpus.jsonl",
        [
            {
                "_id": one.film_id,
                "title": one.title,
                "text": one.text,
                "metadata": {"genres": one.genres, "directors": one.directors, "year": one.year},
            }
            for one in documents
        ],
    )
    _write_lines(fresh / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, (text, _, _) in enumerate(queries)])
    num_judgements = _write_qrels(fresh / "qrels", documents, queries)
    shutil.rmtree(out_dir, ignore_errors=True)
    fresh.rename(out_dir)
    return {"documents": len(documents), "queries": len(queries), "judgements": num_judgements}


def _documents(films: Path | None) -> list[Document]:
    with open_films(films) as connection:
        rows = connection.execute(SQL).fetchall()
    return [
        Document(
            film_id=film_id,
            title=title,
            year=year,
            genres=split_names(genres),
            directors=split_names(directors),
            cast=split_names(cast),
            countries=split_names(countries),
        )
        for film_id, title, year, genres, directors, cast, countries in rows
        if film_id and title and year
    ]


def _facts(one: Document) -> dict[str, list[str]]:
    """Values of each kind of fact; of the cast those that the document shows."""
    return {
        "genre": one.genres,
        "director": one.directors,
        "actor": one.cast[:SHOWN_CAST],
        "country": one.countries,
        "year": [str(one.year)],
        "decade": [f"{one.year // 10 * 10}s"],
        "title": [one.title],
    }


def _index(documents: Sequence[Document]) -> dict[Fact, set[int]]:
    having: dict[Fact, set[int]] = defaultdict(set)
    for place, one in enumerate(documents):
        for kind, values in _facts(one).items():
            for value in values:
                having[kind, value].add(place)
    return having


def _query(
    one: Document, having: dict[Fact, set[int]], *, generator: np.random.Generator
) -> tuple[str, set[int]] | None:
    """A query made from a film and all films that it fits; None where the film lacks a fact or too many others fit."""
    pattern, kinds = TEMPLATES[int(generator.integers(len(TEMPLATES)))]
    values = {kind: generator.permutation(of_kind).tolist() for kind, of_kind in _facts(one).items() if of_kind}
    fitting: set[int] | None = None
    for kind in kinds:
        if not values.get(kind):
            return None
        value = values[kind].pop()
        own = having[kind, value]
        fitting = set(own) if fitting is None else fitting & own
        said = _half_remembered(value, generator=generator) if kind == "title" else value
        pattern = pattern.replace("{" + kind + "}", said, 1)
    if fitting is None or len(fitting) > MAX_OTHERS + 1:
        return None
    return pattern.lower(), fitting


def _half_remembered(title: str, *, generator: np.random.Generator) -> str:
    """The title less a word, where it has three or more, and with two neighbouring letters of a long word swapped."""
    words = title.split()
    if len(words) >= 3:
        del words[int(generator.integers(len(words)))]
    long = [place for place, word in enumerate(words) if len(word) >= 5]
    if long:
        place = long[int(generator.integers(len(long)))]
        word, swap = words[place], int(generator.integers(1, len(words[place]) - 2))
        words[place] = word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :]
    return " ".join(words)


def _write_lines(path: Path, documents: Sequence[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents), encoding="utf-8")


def _write_qrels(directory: Path, documents: Sequence[Document], queries: Sequence[tuple[str, int, list[int]]]) -> int:
    """Write the judgements of each part; queries are in random order already, so parts are slices."""
    start, num_judgements = 0, 0
    for number, (part, share) in enumerate(PARTS):
        stop = len(queries) if number == len(PARTS) - 1 else start + max(1, round(share * len(queries)))
        lines = ["query-id\tcorpus-id\tscore"]
        for n in range(start, stop):
            _, place, others = queries[n]
            lines.append(f"q{n}\t{documents[place].film_id}\t{KNOWN_ITEM}")
            lines += [f"q{n}\t{documents[other].film_id}\t{ALSO_FITS}" for other in others]
        (directory / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        start, num_judgements = stop, num_judgements + len(lines) - 1
    return num_judgements
