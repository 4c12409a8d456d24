import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import FeaturesError, SchemaMismatch, SourceDamaged, SourceMissing
from features.sources.tabular import Layout, read_columns

ROWS = [("1", "café"), ("2", "a,b")]
TEXT = 'id,name\n1,café\n2,"a,b"\n'


def rows_of(path: Path, **layout: str) -> list[tuple[object, ...]]:
    blocks = list(read_columns(path, layout=Layout(**layout), columns=["id", "name"]))
    return [(row["id"], row["name"]) for block in blocks for row in block.cells.to_pylist()]


def test_the_same_rows_come_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.tsv").write_text("id\tname\n1\tcafé\n2\ta,b\n", encoding="utf-8")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "A.TSV.GZ").write_bytes(gzip.compress("id\tname\n1\tcafé\n2\ta,b\n".encode()))
    pq.write_table(pa.table({"other": [0, 0], "name": ["café", "a,b"], "id": ["1", "2"]}), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside/a.csv", TEXT)
    for name in ("a.csv", "a.tsv", "a.csv.gz", "A.TSV.GZ", "a.parquet", "a.zip/inside/a.csv"):
        assert rows_of(tmp_path / name) == ROWS, name


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig"])
def test_other_encodings_are_read_where_the_layout_names_them(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(TEXT.encode(encoding))
    assert rows_of(tmp_path / "a.csv", encoding=encoding) == ROWS


def test_a_delimiter_may_have_several_characters(tmp_path):
    (tmp_path / "a.dat").write_text("1::café\n2::a,b\n3\n4:::\n", encoding="utf-8")
    layout = Layout(delimiter="::", quote="", header=["id", "name"])
    blocks = list(read_columns(tmp_path / "a.dat", layout=layout, columns=["id", "name"]))
    cells = pa.concat_tables([block.cells for block in blocks])
    unparsed = pa.concat_tables([block.unparsed for block in blocks])
    assert cells.to_pylist()[2] == {"id": "4", "name": ":", "source_row": 3}
    assert cells["id"].to_pylist() == ["1", "2", "4"]
    assert unparsed.to_pylist() == [{"raw": "3", "reason": "not 2 columns", "source_row": 2}]


def test_a_row_with_too_many_values_is_kept_with_its_own_delimiters(tmp_path):
    (tmp_path / "a.dat").write_text("1::2::3\n")
    layout = Layout(delimiter="::", header=["id", "name"])
    (block, *_) = read_columns(tmp_path / "a.dat", layout=layout, columns=["id"])
    assert block.unparsed["raw"].to_pylist() == ["1::2::3"]


def test_parquet_cells_keep_their_types_and_a_file_without_rows_its_columns(tmp_path):
    table = pa.table({"id": pa.array(["a", "b"]).dictionary_encode(), "name": pa.array([1.5, None])})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    assert rows_of(tmp_path / "a.parquet") == [("a", 1.5), ("b", None)]
    assert rows_of(tmp_path / "b.parquet") == []
    (block,) = read_columns(tmp_path / "b.parquet", layout=Layout(), columns=["id", "name"])
    assert block.cells.schema.types[:2] == [pa.string(), pa.float64()]


def test_a_missing_file_a_folder_and_a_missing_member_are_named(tmp_path):
    with pytest.raises(SourceMissing, match=r"expected a file at .*a\.csv, but there is none; set the path"):
        rows_of(tmp_path / "a.csv")
    with pytest.raises(SourceMissing, match="but it is a folder"):
        rows_of(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", TEXT)
    with pytest.raises(SourceMissing, match=r"expected b\.csv in the zip file .*a\.zip"):
        rows_of(tmp_path / "a.zip" / "b.csv")


def test_a_file_of_unknown_kind_asks_for_its_delimiter(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT.replace(",", ";"), encoding="utf-8")
    with pytest.raises(FeaturesError, match=r"expected a name that ends in \.csv, .* or set layout\.delimiter"):
        rows_of(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("id|name\n1|café\n2|a,b\n", encoding="utf-8")
    assert rows_of(tmp_path / "a.txt", delimiter="|") == ROWS


def test_a_parquet_string_that_is_not_utf8_is_named_by_its_row(tmp_path):
    bad = pa.array([b"a", b"\xff"]).view(pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    pq.write_table(pa.table({"id": strings, "name": strings}), tmp_path / "a.parquet")
    with pytest.raises(SourceDamaged, match=r"a\.parquet: column 'id': row 1: .*UTF8"):
        rows_of(tmp_path / "a.parquet")


def test_a_parquet_column_that_is_missing_is_named(tmp_path):
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match=r"a\.parquet: no column 'name' among \['id'\]"):
        rows_of(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "layout",
    [
        {"delimiter": ""},
        {"delimiter": "\n"},
        {"delimiter": "§"},
        {"delimiter": 7},
        {"quote": "''"},
        {"quote": ",", "delimiter": ","},
        {"encoding": "klingon"},
        {"encoding": "hex"},
        {"header": "id"},
    ],
    ids=str,
)
def test_a_layout_that_cannot_be_is_refused(layout):
    with pytest.raises(FeaturesError, match=rf"layout\.({'|'.join(layout)}) must be"):
        Layout(**layout)
