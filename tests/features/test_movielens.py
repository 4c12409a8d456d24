import hashlib
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from features.errors import FeaturesError, SourceDamaged, SourceMissing
from features.events import RawTables, validate
from features.sources.movielens import MD5, OCCUPATIONS, MovieLens

CONF = Path(__file__).parents[2] / "conf"
NOW_AT_MS = 2 * 10**12
# As GroupLens writes them: no header, `::` between values, Latin-1, line ends of Unix.
ML_1M = {
    "ratings.dat": "1::1193::5::978300760\n1::3177::3::978302109\n2::1193::4::978298413\n2::9::4\n",
    "movies.dat": (
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
        "3177::Cité des enfants perdus, La (City: The Lost) (1995)::Adventure|Sci-Fi\n"
    ),
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "README": "SUMMARY\n",
}
# As GroupLens writes them: a header, quotes where a title holds a comma, UTF-8, line ends of Windows.
ML_25M = {
    "ratings.csv": "userId,movieId,rating,timestamp\r\n1,296,5.0,1147880044\r\n1,306,3.5,1147868817\r\n2,296,0.5,1\r\n",
    "movies.csv": (
        "movieId,title,genres\r\n"
        '296,"Pulp Fiction, or ""Pulp"" (1994)",Comedy|Crime\r\n'
        "306,Amélie (Fabuleux destin d'Amélie Poulain, Le) (2001) ,Comedy\r\n"
        "307,Babylon 5,(no genres listed)\r\n"
    ).replace("(Fabuleux destin d'Amélie Poulain, Le) ", ""),
    "tags.csv": "userId,movieId,tag,timestamp\r\n",
    "links.csv": "movieId,imdbId,tmdbId\r\n",
}


def write_folder(folder: Path, contents: dict[str, str], encoding: str) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content.encode(encoding))
    return folder


def write_zip(path: Path, contents: dict[str, str], encoding: str = "utf-8") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{path.stem}/{name}", content.encode(encoding))
    return path


def tables(raw: RawTables) -> list[list[dict[str, object]]]:
    return [table.to_pylist() for table in (raw.events, raw.items, raw.queries)]


def test_the_one_million_ratings_have_words_for_their_users(tmp_path):
    raw = MovieLens(path=write_folder(tmp_path / "ml-1m", ML_1M, "latin-1")).read()
    assert raw.queries.to_pylist() == [
        {
            "query_id": "1",
            "gender": "F",
            "source_row": 0,
            "age_group": "under 18",
            "occupation": "K-12 student",
        },
        {"query_id": "2", "gender": "M", "source_row": 1, "age_group": "56+", "occupation": "self-employed"},
    ]
    assert raw.items.select(["item_id", "title", "year", "genres"]).to_pylist()[1] == {
        "item_id": "3177",
        "title": "Cité des enfants perdus, La (City: The Lost)",
        "year": 1995,
        "genres": ["Adventure", "Sci-Fi"],
    }
    first = raw.events.to_pylist()[0]
    assert (first["query_id"], first["item_id"], first["event"], first["value"]) == ("1", "1193", "rating", 5.0)
    assert first["occurred_at"].isoformat() == "2000-12-31T22:12:40+00:00"
    unparsed = raw.unparsed["events"].select(["raw", "reason", "source_row"])
    assert unparsed.to_pylist() == [{"raw": "2::9::4", "reason": "not 4 columns", "source_row": 3}]


def test_later_releases_have_quotes_half_stars_and_no_users(tmp_path):
    raw = MovieLens(path=write_folder(tmp_path / "ml-25m", ML_25M, "utf-8")).read()
    assert raw.items.select(["title", "year", "genres"]).to_pylist() == [
        {"title": 'Pulp Fiction, or "Pulp"', "year": 1994, "genres": ["Comedy", "Crime"]},
        {"title": "Amélie", "year": 2001, "genres": ["Comedy"]},
        {"title": "Babylon 5", "year": None, "genres": []},
    ]
    assert raw.events["value"].to_pylist() == [5.0, 3.5, 0.5]
    assert raw.queries.to_pylist()[0] == {
        "query_id": "1",
        "source_row": 0,
        "gender": None,
        "age_group": None,
        "occupation": None,
    }
    assert validate(raw, now_at_ms=NOW_AT_MS).events.num_rows == 3


def test_the_ten_million_ratings_are_in_utf8_and_know_no_users(tmp_path):
    without_users = {name: content for name, content in ML_1M.items() if name != "users.dat"}
    raw = MovieLens(path=write_folder(tmp_path / "ml-10M100K", without_users, "utf-8")).read()
    assert raw.items["title"].to_pylist()[1].startswith("Cité")
    assert raw.queries["query_id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize(("name", "contents", "encoding"), [("ml-1m", ML_1M, "latin-1"), ("ml-25m", ML_25M, "utf-8")])
def test_a_zip_file_reads_as_its_folder_does_whatever_lies_around_it(tmp_path, name, contents, encoding):
    unpacked = tables(MovieLens(path=write_folder(tmp_path / "a" / name, contents, encoding)).read())
    assert tables(MovieLens(path=tmp_path / "a").read()) == unpacked
    archive = write_zip(tmp_path / f"{name}.zip", contents, encoding)
    assert tables(MovieLens(path=archive).read()) == unpacked
    assert tables(MovieLens(path=tmp_path / name).read()) == unpacked


def test_a_missing_release_says_where_it_comes_from(tmp_path):
    with pytest.raises(
        SourceMissing,
        match=r"nothing at .*ml-1m; download https://files\.grouplens\.org/.*/ml-1m\.zip and put it there",
    ):
        MovieLens(path=tmp_path / "ml-1m").read()


def test_a_download_appears_whole_beside_the_folder_it_is_named_after(tmp_path):
    server = tmp_path / "server"
    server.mkdir()
    write_zip(server / "ml-latest-small.zip", ML_25M)
    source = MovieLens(path=tmp_path / "data/ml-latest-small", download=True, url=server.as_uri())
    first = tables(source.read())
    (server / "ml-latest-small.zip").unlink()
    assert tables(source.read()) == first
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["ml-latest-small.zip"]


def test_a_download_with_another_md5_than_the_published_one_leaves_nothing(tmp_path):
    server = tmp_path / "server"
    server.mkdir()
    content = write_zip(server / "ml-1m.zip", ML_1M, "latin-1").read_bytes()
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    with pytest.raises(SourceDamaged, match=rf"with md5 {MD5['ml-1m']}, got {got}; try again"):
        MovieLens(path=tmp_path / "data/ml-1m.zip", download=True, url=server.as_uri()).read()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_that_fails_says_what_to_do_without_a_network(tmp_path):
    source = MovieLens(path=tmp_path / "ml-1m", download=True, url=(tmp_path / "nowhere").as_uri())
    with pytest.raises(SourceMissing, match=r"cannot download file:.*ml-1m\.zip \(.*\); download it where there"):
        source.read()


def test_only_releases_are_downloaded(tmp_path):
    with pytest.raises(FeaturesError, match=r"ml-100m is no release; dataset\.source\.path may end in \['ml-1m', "):
        MovieLens(path=tmp_path / "ml-100m", download=True).read()


def test_what_is_no_release_is_refused(tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(b"half a download")
    with pytest.raises(SourceDamaged, match=r"ml-1m\.zip is no whole zip file .*; download it again"):
        MovieLens(path=tmp_path / "ml-1m.zip").read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceDamaged, match=r"expected one folder with ratings\.csv or ratings\.dat in .*, found 0"):
        MovieLens(path=tmp_path / "empty").read()
    write_folder(tmp_path / "two/ml-1m", ML_1M, "latin-1")
    write_folder(tmp_path / "two/ml-25m", ML_25M, "utf-8")
    with pytest.raises(SourceDamaged, match=r"found 2; point dataset\.source.path at one release"):
        MovieLens(path=tmp_path / "two").read()


def test_a_zip_file_with_a_flipped_byte_is_refused(tmp_path):
    archive = write_zip(tmp_path / "ml-25m.zip", ML_25M)
    archive.write_bytes(archive.read_bytes().replace(b"1147880044", b"1147880045"))
    with pytest.raises(SourceDamaged, match=r"ratings\.csv: expected a whole zip file, but Bad CRC-32"):
        MovieLens(path=archive).read()


def test_every_occupation_has_its_number():
    assert len(OCCUPATIONS) == 21
    assert (OCCUPATIONS[0], OCCUPATIONS[12], OCCUPATIONS[20]) == ("other or not specified", "programmer", "writer")


@pytest.mark.parametrize(
    ("option", "name", "contents", "encoding"),
    [("movielens", "ml-25m", ML_25M, "utf-8"), ("movielens1m", "ml-1m", ML_1M, "latin-1")],
)
def test_the_configuration_names_only_columns_that_the_tables_have(tmp_path, option, name, contents, encoding):
    folder = write_folder(tmp_path / name, contents, encoding)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(config_name="prepare_data", overrides=[f"dataset={option}", f"dataset.source.path={folder}"])
    raw = instantiate(cfg.dataset.source, _convert_="all").read()
    for table, columns in ((raw.items, cfg.dataset.columns["items"]), (raw.queries, cfg.dataset.columns.queries)):
        named = [name for names in columns.values() for name in ([names] if isinstance(names, str) else names)]
        assert set(named) - {""} <= set(table.column_names)
