from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import FeaturesError, SchemaMismatch
from features.sources.attributes import ItemFile, QueryFile

ITEMS = '''movieId,title,genres,price,released
10,"Heat, or ""Hot""",Drama|Crime,3,1995-12-15
11,Up,,abc,
12,,Drama,inf,2000-01-01
13,Old,Drama,1e3,Friday
'''


def item_file(folder: Path, content: str = ITEMS) -> Path:
    (folder / "movies.csv").write_text(content)
    return folder / "movies.csv"


def test_columns_become_what_they_are_called(tmp_path):
    read = ItemFile(
        path=item_file(tmp_path), id="movieId", text=["title", "genres"], categories=["genres"], separator="|"
    ).read()
    assert read is not None
    assert read.table.to_pylist()[0] == {
        "item_id": "10",
        "available_from": None,
        "title": 'Heat, or "Hot"',
        "genres": ["Drama", "Crime"],
        "source_row": 0,
    }
    assert read.table["genres"].to_pylist()[1:] == [[], ["Drama"], ["Drama"]]
    assert read.facts == {}


def test_a_number_that_is_none_is_missing_counted_and_told_with_its_row(tmp_path, caplog):
    read = ItemFile(path=item_file(tmp_path), id="movieId", numbers=["price"]).read()
    assert read is not None
    assert read.table["price"].to_pylist() == [3.0, None, None, 1000.0]
    assert read.facts == {"items_price_no_number": 2}
    assert "movies.csv: column 'price': no finite number, so missing: 'abc' in row 1" in caplog.text


def test_an_instant_from_which_an_item_is_available_must_be_one(tmp_path):
    read = ItemFile(path=item_file(tmp_path), id="movieId", available_from="released", time_unit="iso").read()
    assert read is not None
    assert [str(at) for at in read.table["available_from"].cast(pa.date32()).to_pylist()] == [
        "1995-12-15",
        "None",
        "2000-01-01",
    ]
    assert read.unparsed.to_pylist() == [
        {
            "item_id": "13",
            "available_from": "Friday",
            "raw": "13\tFriday",
            "reason": "available_from is no instant in ISO 8601",
            "source_row": 3,
        }
    ]


def test_lists_in_a_parquet_file_are_categories_and_texts(tmp_path):
    table = pa.table({"item_id": [1, 2], "tags": [["a", "b"], None], "words": [["x"], ["y", "z"]]})
    pq.write_table(table, tmp_path / "items.parquet")
    read = ItemFile(path=tmp_path / "items.parquet", text=["words"], categories=["tags"]).read()
    assert read is not None
    assert read.table["item_id"].to_pylist() == ["1", "2"]
    assert read.table["tags"].to_pylist() == [["a", "b"], []]
    assert read.table["words"].to_pylist() == [["x"], ["y", "z"]]


def test_queries_have_one_category_a_cell_and_a_text(tmp_path):
    (tmp_path / "queries.tsv").write_text("uid\tsays\tjob\tage\n1\tfilms of 1966\twriter\t49\n2\t\t  \told\n")
    read = QueryFile(path=tmp_path / "queries.tsv", id="uid", text="says", categories=["job"], numbers=["age"]).read()
    assert read is not None
    assert read.table.drop_columns("source_row").to_pylist() == [
        {"query_id": "1", "job": "writer", "age": 49.0, "says": "films of 1966"},
        {"query_id": "2", "job": None, "age": None, "says": ""},
    ]
    assert read.facts == {"queries_age_no_number": 1}


def test_without_a_file_there_is_nothing_to_read():
    assert ItemFile().read() is None
    assert QueryFile().read() is None


def test_columns_without_a_file_are_refused():
    with pytest.raises(FeaturesError, match=r"dataset\.columns\.items\.text names \['title'\], but dataset\.source\.i"):
        ItemFile(text=["title"])
    with pytest.raises(FeaturesError, match=r"dataset\.columns\.queries\.numbers names \['age'\]"):
        QueryFile(numbers=["age"])


def test_a_column_that_would_be_two_things_is_refused():
    with pytest.raises(FeaturesError, match=r"dataset\.source\.items: column 'year' is mapped twice"):
        ItemFile(path="items.csv", text=["year"], numbers=["year"])
    with pytest.raises(FeaturesError, match=r"column 'id' is mapped twice"):
        ItemFile(path="items.csv", id="id", available_from="id")
    with pytest.raises(FeaturesError, match=r"dataset\.source\.queries: column 'job' is mapped twice"):
        QueryFile(path="queries.csv", text="job", categories=["job"])


def test_names_with_a_meaning_of_their_own_are_refused():
    with pytest.raises(FeaturesError, match="a column cannot be called 'reason' here; rename it in the file"):
        ItemFile(path="items.csv", categories=["reason"])


def test_one_name_where_a_list_is_expected_is_refused():
    with pytest.raises(FeaturesError, match=r"text must be a list of columns, such as \[text\]; got 'title'"):
        ItemFile(path="items.csv", text="title")


def test_an_unknown_unit_of_time_is_refused():
    with pytest.raises(FeaturesError, match=r"items\.time_unit must be one of .*got 'days'"):
        ItemFile(path="items.csv", time_unit="days")


def test_lists_for_a_category_of_a_query_are_refused_with_file_and_column(tmp_path):
    pq.write_table(pa.table({"query_id": ["1"], "jobs": [["a", "b"]]}), tmp_path / "queries.parquet")
    with pytest.raises(SchemaMismatch, match=r"queries\.parquet: column 'jobs' is list"):
        QueryFile(path=tmp_path / "queries.parquet", categories=["jobs"]).read()
