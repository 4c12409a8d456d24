import sqlite3
import zipfile
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from features.errors import SourceDamaged, SourceMissing
from features.events import validate
from features.sources.movielens100k import FOLDER, HEADERS, MovieLens100K

REPOSITORY = Path(__file__).parents[2]
WHEEL = REPOSITORY / ".cache/wheels/recbole-1.2.1-py3-none-any.whl"
YAML = REPOSITORY / "conf/dataset/movielens100k.yaml"

ITEMS = """1\tToy Story\t1995\tAnimation Children's Comedy
2\tPostino, Il\t1994\tDrama Romance
3\tunkonwn\tunkonwn\tunknown
4\tLand Before Time III (1995)\tV\tAnimation
5\ttoo few tokens
"""
QUERIES = """196\t49\tM\twriter\t55105
22\tyoung\tF\tnone\t40206
"""
EVENTS = """196\t1\t3\t881250949
196\t2\tthree\t881250950
22\t1\t4\tyesterday
22\t2\t4
22\t2\tnan\t881250951
"""
NOW_AT_MS = 10**12


def write_wheel(path: Path, *, events: str = EVENTS, items: str = ITEMS, header: str = HEADERS["inter"]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{FOLDER}.inter", f"{header}\n{events}")
        archive.writestr(f"{FOLDER}.item", f"{HEADERS['item']}\n{items}")
        archive.writestr(f"{FOLDER}.user", f"{HEADERS['user']}\n{QUERIES}")
    return path


@pytest.fixture
def films(tmp_path):
    connection = sqlite3.connect(tmp_path / "movies.db")
    connection.execute('CREATE TABLE omdb ("ID", "Title", "Year", "Director", "Cast", "Writer", "Country")')
    connection.execute(
        "INSERT INTO omdb VALUES (1, 'Il Postino', 1994, 'Michael Radford', 'Philippe Noiret', '', 'Italy')"
    )
    connection.commit()
    connection.close()
    return tmp_path / "movies.db"


@pytest.fixture
def source(tmp_path, films):
    return MovieLens100K(wheel=write_wheel(tmp_path / "recbole.whl"), films=films)


def test_ratings_become_events_with_the_time_in_utc_and_the_place_in_the_file(source):
    first = source.read().events.to_pylist()[0]
    assert (first["query_id"], first["item_id"], first["event"], first["value"]) == ("196", "1", "rating", 3.0)
    assert (first["occurred_at"].isoformat(), first["source_row"]) == ("1997-12-04T15:55:49+00:00", 0)


def test_rows_that_do_not_parse_are_kept_as_they_stood_with_a_reason(source):
    unparsed = source.read().unparsed["events"].sort_by("source_row").to_pylist()
    assert [(row["source_row"], row["reason"]) for row in unparsed] == [
        (1, "value is no number"),
        (2, "time is no whole number of seconds"),
        (3, "not 4 tokens"),
    ]
    assert unparsed[0]["raw"] == "196\t2\tthree\t881250950"
    assert unparsed[0]["value"] == "three"


def test_every_row_of_the_files_is_kept_or_set_aside(source):
    valid = validate(source.read(), now_at_ms=NOW_AT_MS)
    assert valid.events["source_row"].to_pylist() == [0]
    assert valid.rejected["events"]["source_row"].to_pylist() == [1, 2, 3, 4]
    assert valid.rejected["events"]["reason"].to_pylist()[-1] == "value not finite"
    assert valid.rejected["items"]["raw"].to_pylist() == ["5\ttoo few tokens"]
    assert valid.queries.num_rows == 2


def test_items_have_genres_years_and_film_facts_where_a_film_matched(source):
    raw = source.read()
    toy_story, postino, unknown, video = raw.items.to_pylist()
    assert toy_story["genres"] == ["Animation", "Children's", "Comedy"]
    assert (toy_story["year"], toy_story["directors"]) == (1995, [])
    assert (postino["directors"], postino["actors"]) == (["Michael Radford"], ["Philippe Noiret"])
    assert (postino["countries"], postino["writers"]) == (["Italy"], [])
    assert (unknown["title"], unknown["year"], unknown["genres"]) == (None, None, [])
    assert (video["title"], video["year"]) == ("Land Before Time III", 1995)
    assert raw.facts["films_matched"] == 1


def test_an_attribute_that_does_not_parse_is_missing_and_counted_but_its_row_stays(source):
    raw = source.read()
    assert raw.queries["age"].to_pylist() == [49.0, None]
    assert raw.facts["queries_without_age"] == 1
    assert raw.facts["films_without_year"] == 1


def test_a_missing_wheel_says_which_command_gets_it(tmp_path, films):
    with pytest.raises(SourceMissing, match=r"no file .*recbole\.whl; run `make setup`"):
        MovieLens100K(wheel=tmp_path / "recbole.whl", films=films).read()


def test_a_wheel_that_is_no_zip_file_says_what_to_do(tmp_path, films):
    (tmp_path / "recbole.whl").write_bytes(b"half a download")
    with pytest.raises(SourceDamaged, match=r"is not the wheel of recbole 1\.2\.1 .*; delete .* and run `make setup`"):
        MovieLens100K(wheel=tmp_path / "recbole.whl", films=films).read()


def test_a_wheel_with_a_flipped_byte_is_refused(tmp_path, films):
    wheel = write_wheel(tmp_path / "recbole.whl")
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace(b"881250949", b"881250940"))
    with pytest.raises(SourceDamaged, match="Bad CRC-32"):
        MovieLens100K(wheel=wheel, films=films).read()


def test_a_wheel_without_the_dataset_or_with_other_columns_is_refused(tmp_path, films):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("recbole/__init__.py", "")
    with pytest.raises(SourceDamaged, match=r"ml-100k\.inter"):
        MovieLens100K(wheel=tmp_path / "other.whl", films=films).read()
    changed = write_wheel(tmp_path / "changed.whl", header="item_id:token\tuser_id:token")
    with pytest.raises(SourceDamaged, match=r"begins 'item_id.*expected 'user_id"):
        MovieLens100K(wheel=changed, films=films).read()


def test_the_configuration_names_only_columns_that_the_tables_have(source):
    config = OmegaConf.load(YAML)
    raw = source.read()
    for table, columns in (("items", raw.items.column_names), ("queries", raw.queries.column_names)):
        named = [name for names in config.columns[table].values() for name in names]
        assert set(named) <= set(columns)


@pytest.mark.skipif(not WHEEL.is_file(), reason=f"no {WHEEL}: run `make setup`")
def test_the_real_dataset_is_whole_and_its_films_are_found(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    raw = instantiate(OmegaConf.load(YAML).source).read()
    assert (raw.events.num_rows, raw.items.num_rows, raw.queries.num_rows) == (100_000, 1_682, 943)
    assert all(table.num_rows == 0 for table in raw.unparsed.values())
    assert raw.facts["films_matched"] >= 1_380
    star_wars = raw.items.filter(pc.equal(raw.items["item_id"], "50")).to_pylist()[0]
    assert (star_wars["title"], star_wars["directors"]) == ("Star Wars", ["George Lucas"])
