import sqlite3
from pathlib import Path

import pytest

from features.errors import SourceDamaged, SourceMissing
from features.sources.films import Film, FilmFacts, read_films, title_key, title_keys


def film(title: str, year: int) -> Film:
    return Film(title=title, year=year, directors=[f"director of {title} {year}"], actors=[], writers=[], countries=[])


def write_movies_db(path: Path, rows: list[tuple[object, ...]]) -> Path:
    connection = sqlite3.connect(path)
    connection.execute(
        'CREATE TABLE omdb ("ID" INTEGER, "Title" TEXT, "Year" INTEGER, "Director" TEXT, "Cast" TEXT, "Writer" TEXT, '
        '"Country" TEXT)'
    )
    connection.executemany("INSERT INTO omdb VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Shawshank Redemption, The", "the shawshank redemption"),
        ("Postino, Il", "il postino"),
        ("Enfer, L'", "l enfer"),
        ("Adventures of Priscilla, Queen of the Desert, The", "the adventures of priscilla queen of the desert"),
        ("Truth or Consequences, N.M.", "truth or consequences n m"),
        ("Nénette et Boni", "nenette et boni"),
        ("Wallace & Gromit", "wallace and gromit"),
        ("Devil's Advocate, The", "the devils advocate"),
        ("Devil\u2019s Advocate, The", "the devils advocate"),
        ("  Þ  ", ""),
    ],
)
def test_titles_are_compared_by_their_words_with_the_article_in_front(title, key):
    # The apostrophe of L' joins nothing once the article stands in front: "L' Enfer".
    assert title_key(title) == key


def test_alternative_titles_in_brackets_count_and_the_title_itself_comes_first():
    assert title_keys("Double vie de Véronique, La (Double Life of Veronique, The)") == [
        "la double vie de veronique",
        "the double life of veronique",
    ]
    assert title_keys("Killer (a.k.a. Bulletproof Heart)") == ["killer", "bulletproof heart"]


def test_a_film_of_the_same_year_goes_before_one_of_the_next():
    facts = FilmFacts([film("Emma", 1996), film("Emma", 1997)])
    assert facts.find("Emma", 1997) == film("Emma", 1997)


def test_a_year_off_by_one_matches_only_when_one_film_fits():
    facts = FilmFacts([film("Boys", 1996), film("Fear", 1994), film("Fear", 1996)])
    assert facts.find("Boys", 1995) == film("Boys", 1996)
    assert facts.find("Boys", 1997) == film("Boys", 1996)
    assert facts.find("Boys", 1998) is None
    assert facts.find("Fear", 1995) is None


def test_two_films_of_one_title_and_year_match_nothing():
    assert FilmFacts([film("Twins", 1995), film("The Twins", 1995)]).find("Twins (Twins, The)", 1995) is None


def test_a_subtitle_may_be_missing_on_either_side_but_not_differ():
    facts = FilmFacts(
        [film("Star Wars: Episode IV", 1977), film("Microcosmos", 1996), film("Amityville: Dollhouse", 1996)]
    )
    assert facts.find("Star Wars", 1977) == film("Star Wars: Episode IV", 1977)
    assert facts.find("Microcosmos: Le peuple de l'herbe", 1996) == film("Microcosmos", 1996)
    assert facts.find("Amityville: A New Generation", 1996) is None
    assert facts.find("Star Wars", 1978) is None


def test_a_title_without_a_year_or_without_letters_matches_nothing():
    facts = FilmFacts([film("Heat", 1995)])
    assert facts.find("Heat", None) is None
    assert facts.find("???", 1995) is None


def test_facts_are_lists_of_names_and_actors_of_many_films_come_first(tmp_path):
    database = write_movies_db(
        tmp_path / "movies.db",
        [
            (
                1,
                "One",
                1990,
                "A. Director, B. Director",
                "Abe Rare, Zoe Often, Robert Downey, Jr.",
                None,
                "France, Italy",
            ),
            (2, "Two", 1991, "", "Zoe Often", "W. Writer", "France"),
            (3, None, 1992, "", "", "", ""),
        ],
    )
    found = read_films(database).find("One", 1990)
    # Zoe Often is in two films, the others in one each and so by name.
    assert found == Film(
        title="One",
        year=1990,
        directors=["A. Director", "B. Director"],
        actors=["Zoe Often", "Abe Rare", "Robert Downey Jr."],
        writers=[],
        countries=["France", "Italy"],
    )


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(SourceMissing, match=r"no file .*movies\.db; run `make setup`"):
        read_films(tmp_path / "movies.db")


def test_a_file_that_is_no_database_says_so(tmp_path):
    (tmp_path / "movies.db").write_bytes(b"not a database, but long enough to be read as one" * 10)
    with pytest.raises(SourceDamaged, match="file is not a database"):
        read_films(tmp_path / "movies.db")


def test_a_database_of_another_shape_says_what_it_lacks(tmp_path):
    sqlite3.connect(tmp_path / "movies.db").execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(SourceDamaged, match="no such table: omdb"):
        read_films(tmp_path / "movies.db")


def test_the_installed_package_is_found_without_importing_it():
    assert read_films().find("Shawshank Redemption, The", 1994).directors == ["Frank Darabont"]
