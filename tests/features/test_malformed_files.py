"""Files that are damaged as a whole, and mappings that do not fit them."""

import gzip
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.events import Source
from features.sources.attributes import ItemFile, QueryFile
from features.sources.files import EventColumns, EventFile, Files
from features.sources.tabular import Layout
from tests.features.hostile import Outcome, Preparing, refused

LOG = "query_id,item_id,timestamp\nq,a,1\nq,b,2\nq,c,3\n"
NOISE = random.Random(1).randbytes(4000)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + NOISE


@pytest.fixture(scope="module")
def preparing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparing]:
    one = Preparing(tmp_path_factory.mktemp("good"))
    yield one
    one.stop()


@pytest.fixture
def attempt(preparing: Preparing, tmp_path: Path) -> Callable[[Callable[[], Source]], Outcome]:
    return lambda make: preparing.attempt(make, tmp_path / "home")


def parquet_log(folder: Path) -> bytes:
    table = pa.table({"query_id": ["q"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    pq.write_table(table, folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


# The name of the events' file, its bytes, and what the error says beside that name.
DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("log.csv", b"", "is empty; expected a header and rows"),
    "a byte order mark alone": ("log.csv", b"\xef\xbb\xbf", "is empty"),
    "a header alone": ("log.csv", b"query_id,item_id,timestamp\n", "holds no event: expected at least one row"),
    "a header without a line end": ("log.csv", b"query_id,item_id,timestamp", "holds no event"),
    "a line end alone": ("log.csv", b"\n", r"no column 'query_id' among \[\]"),
    "no header": ("log.csv", b"q,a,1\nq,b,2\n", r"no column 'query_id' among \['q', 'a', '1'\]"),
    "a column less": ("log.csv", b"query_id,timestamp\nq,1\n", r"no column 'item_id' among"),
    "a column twice": ("log.csv", b"query_id,item_id,item_id,timestamp\nq,a,b,1\n", "more than one column 'item_id'"),
    "another delimiter": (
        "log.csv",
        LOG.replace(",", ";").encode(),
        r"no column 'query_id' among \['query_id;item_id;",
    ),
    "tabs in a csv": ("log.csv", LOG.replace(",", "\t").encode(), r"no column 'query_id' among \['query_id\\titem_id"),
    "commas in a tsv": ("log.tsv", LOG.encode(), r"no column 'query_id' among \['query_id,item_id"),
    "names in capitals": ("log.csv", LOG.upper().encode(), r"no column 'query_id' among \['QUERY_ID'"),
    "spaces around names": ("log.csv", b"query_id , item_id\nq,a\n", r"no column 'query_id' among \['query_id ',"),
    "a header that is not UTF-8": (
        "log.csv",
        b"query_id,item_id,caf\xe9\n",
        r"its header cannot be read \(not UTF-8\)",
    ),
    "UTF-16": ("log.csv", LOG.encode("utf-16"), r"its header cannot be read \(not UTF-8\)"),
    "UTF-16 without a mark": ("log.csv", LOG.encode("utf-16-le"), r"no column 'query_id' among \['q\\x00u\\x00"),
    "UTF-32": ("log.csv", LOG.encode("utf-32"), r"its header cannot be read \(not UTF-8\)"),
    "a header with an open quote": (
        "log.csv",
        b'query_id,"item_id\nq,a\n',
        r"its header cannot be read \(unexpected end",
    ),
    "a header of a million letters": ("log.csv", b"x" * 1_000_000 + b"\nq\n", "its header cannot be read"),
    "a header of NULs": ("log.csv", b"\0" * 5000, r"no column 'query_id' among \['\\x00"),
    "a picture": ("log.csv", PNG, "its header cannot be read"),
    "noise": ("log.csv", NOISE, "its header cannot be read|no column 'query_id'"),
    "gzip without saying so": (
        "log.csv",
        gzip.compress(LOG.encode()),
        "its header cannot be read|no column 'query_id'",
    ),
    "a zip file without saying so": ("log.csv", b"PK\3\4" + NOISE, "its header cannot be read|no column 'query_id'"),
    "a page of the web": (
        "log.csv",
        b"<!DOCTYPE html>\n<html>404</html>\n",
        r"no column 'query_id' among \['<!DOCTYPE",
    ),
    "json": ("log.csv", b'[{"query_id": "q", "item_id": "a"}]', "its header cannot be read|no column 'query_id'"),
    "a quote that never closes": ("log.csv", LOG.encode() + b'q,"d,4\nq,e,5\n', "row 3 has no end: a quote opens"),
    "cut in a quoted value": ("log.csv", LOG.encode() + b'q,"a lon', "row 3 has no end: a quote opens"),
    "every row of another width": (
        "log.csv",
        b"query_id,item_id,timestamp\nq,a\nq,b\n",
        "none of its 2 events is good",
    ),
    "every row empty": ("log.csv", b"query_id,item_id,timestamp\n\n\n\n", r"\{'query_id missing': 3\}"),
    "every time in milliseconds": (
        "log.csv",
        b"query_id,item_id,timestamp\nq,a,1600000000000\n",
        r"\{'time after now': 1\}; the first one, 'time after now', is query_id 'q', item_id 'a', .*the unit of time",
    ),
    "every time a date": (
        "log.csv",
        b"query_id,item_id,timestamp\nq,a,2020-01-01\n",
        "'time is no number of seconds': 1.*occurred_at '2020-01-01'",
    ),
    "every id missing": ("log.csv", b"query_id,item_id,timestamp\n,,1\n,,2\n", r"\{'query_id missing': 2\}"),
    "no gzip": ("log.csv.gz", LOG.encode(), "expected a whole compressed file, but Not a gzipped file"),
    "gzip cut short": (
        "log.csv.gz",
        gzip.compress(LOG.encode())[:-9],
        "expected a whole compressed file, but Compressed",
    ),
    "gzip cut in its header": ("log.csv.gz", gzip.compress(LOG.encode())[:5], "expected a whole compressed file"),
    "gzip with another checksum": (
        "log.csv.gz",
        gzip.compress(LOG.encode())[:-8] + b"\0" * 8,
        "expected a whole compressed file, but CRC check failed",
    ),
    "gzip with noise inside": (
        "log.csv.gz",
        gzip.compress(NOISE)[:200] + NOISE[:300] + gzip.compress(NOISE)[500:],
        "expected a whole compressed file|its header cannot be read|no column",
    ),
    "gzip of nothing": ("log.csv.gz", gzip.compress(b""), "is empty"),
    "an empty gzip": ("log.csv.gz", b"", "is empty"),
    "a Parquet file that is none": ("log.parquet", LOG.encode(), "cannot be read: .*magic bytes not found"),
    "a Parquet file of nothing": ("log.parquet", b"", "cannot be read: .*size is 0 bytes"),
    "the magic bytes of Parquet alone": ("log.parquet", b"PAR1PAR1", "cannot be read"),
    "noise between magic bytes": ("log.parquet", b"PAR1" + NOISE + b"\x10\0\0\0PAR1", "cannot be read"),
    "an unknown ending": (
        "log.xlsx",
        b"PK" + NOISE,
        r"expected a name that ends in \.csv, \.tsv .* or set layout\.delim",
    ),
    "no ending": ("log", LOG.encode(), "expected a name that ends in"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_log_is_refused_by_its_name(attempt, tmp_path, kind):
    name, content, message = DAMAGED[kind]
    (tmp_path / name).write_bytes(content)
    refused(attempt(lambda: Files(events=EventFile(path=tmp_path / name))), re.escape(str(tmp_path / name)), message)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz", "movies.zip"])
def test_a_file_that_is_cut_short_is_refused(attempt, tmp_path, name, share):
    if name == "log.parquet":
        whole = parquet_log(tmp_path)
    elif name == "log.csv.gz":
        whole = gzip.compress(LOG.encode())
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("log.csv", LOG)
        whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    path = tmp_path / name / "log.csv" if name == "movies.zip" else tmp_path / name
    message = "is empty" if share == 0.0 and name == "log.csv.gz" else "cannot be read|expected a whole"
    refused(attempt(lambda: Files(events=EventFile(path=path))), f"SourceDamaged: .*{name}", message)


UNFITTING = {
    "lists": pa.array([["q"]] * 3),
    "structs": pa.array([{"a": 1}] * 3),
    "bytes": pa.array([b"q"] * 3),
    "times of day": pa.array([1, 2, 3], pa.time64("us")),
    "durations": pa.array([1, 2, 3], pa.duration("s")),
}


@pytest.mark.parametrize("column", ["query_id", "item_id", "value", "timestamp"])
@pytest.mark.parametrize("kind", UNFITTING)
def test_a_parquet_column_of_an_unfitting_type_is_refused_by_its_name(attempt, tmp_path, kind, column):
    table = {"query_id": ["q"] * 3, "item_id": ["a", "b", "c"], "value": [1.0] * 3, "timestamp": [1, 2, 3]}
    pq.write_table(pa.table({**table, column: UNFITTING[kind]}), tmp_path / "log.parquet")
    outcome = attempt(
        lambda: Files(events=EventFile(path=tmp_path / "log.parquet", columns=EventColumns(value="value")))
    )
    refused(outcome, rf"SchemaMismatch: .*log\.parquet: column '{column}' is ")


PARQUET_CELLS: dict[str, tuple[str, pa.Array, str]] = {
    "a null id": ("query_id", pa.array(["q", None, "q"]), "query_id missing"),
    "an id of nan": ("item_id", pa.array([1.0, float("nan"), 3.0]), "item_id missing"),
    "a null value": ("value", pa.array([1.0, None, 1.0]), "value missing"),
    "nan": ("value", pa.array([1.0, float("nan"), 1.0]), "value not finite"),
    "infinity of 16 bits": ("value", pa.array([1.0, float("inf"), 1.0], pa.float16()), "value not finite"),
    "a value beyond 32 bits": ("value", pa.array([1.0, -1e300, 1.0]), "value too large"),
    "a word": ("value", pa.array(["1", "one", "1"]), "value is no number"),
    "a null time": ("timestamp", pa.array([1, None, 3]), "time missing"),
    "a time of nan": ("timestamp", pa.array([1.0, float("nan"), 3.0]), "time is no number of seconds"),
    "a time of infinity": ("timestamp", pa.array([1.0, float("inf"), 3.0]), "time is no number of seconds"),
    "a time beyond 64 bits of ms": ("timestamp", pa.array([1, 2**63 - 1, 3]), "time is no number of seconds"),
    "an instant of the year 148,000": ("timestamp", pa.array([1, 2**62, 3], pa.timestamp("us")), "time after now"),
    "an instant before 1970": ("timestamp", pa.array([1, -1, 3], pa.timestamp("ms", tz="UTC")), "time negative"),
    "a day of the year 5000": ("timestamp", pa.array([1, 1_106_000, 3], pa.date32()), "time after now"),
}


@pytest.mark.parametrize("kind", PARQUET_CELLS)
def test_a_bad_cell_of_a_parquet_file_sets_its_row_aside(attempt, tmp_path, kind):
    column, cells, reason = PARQUET_CELLS[kind]
    table = {"query_id": ["q"] * 3, "item_id": ["a", "b", "c"], "value": [1.0] * 3, "timestamp": [1, 2, 3]}
    pq.write_table(pa.table({**table, column: cells}), tmp_path / "log.parquet")
    outcome = attempt(
        lambda: Files(events=EventFile(path=tmp_path / "log.parquet", columns=EventColumns(value="value")))
    )
    assert (outcome.error, outcome.set_aside.get("events")) == ("", {reason: 1})
    assert [rejected["source_row"] for rejected in outcome.rejected_events] == [1]


SETTINGS: dict[str, tuple[Callable[[Path], Source], str]] = {
    "a column mapped twice": (
        lambda log: Files(events=EventFile(path=log, columns=EventColumns(query_id="item_id"))),
        r"dataset\.source\.events\.columns: column 'item_id' is mapped twice",
    ),
    "an unknown unit": (lambda log: Files(events=EventFile(path=log, time_unit="h")), "time_unit must be one of .*'h'"),
    "an unknown order": (lambda log: Files(events=EventFile(path=log, order="up")), "order must be one of .*'up'"),
    "neither time nor order": (
        lambda log: Files(events=EventFile(path=log, columns=EventColumns(time=None))),
        r"columns\.time is null",
    ),
    "an order of words": (
        lambda log: Files(
            events=EventFile(path=log, order="column", columns=EventColumns(item_id="timestamp", order="item_id"))
        ),
        "none of its 3 events is good: {'order is no number': 3}",
    ),
    "a value of nan for all": (lambda log: Files(events=EventFile(path=log, value=float("nan"))), "a finite number"),
    "no word for the event": (lambda log: Files(events=EventFile(path=log, event="")), "expected a word for event"),
    "an unknown encoding": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(encoding="utf-9"))),
        r"layout\.encoding must be a codec",
    ),
    "the wrong encoding": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(encoding="utf-16"))),
        r"log\.csv is not in the encoding that layout\.encoding says: UTF-16",
    ),
    "a delimiter of lines": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(delimiter="\n"))),
        r"layout\.delimiter must be",
    ),
    "the wrong delimiter": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(delimiter="tab"))),
        r"log\.csv: no column 'query_id' among \['query_id,item_id,timestamp'\]",
    ),
    "a header too short": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(header=["query_id", "item_id"]))),
        r"log\.csv: no column 'timestamp'",
    ),
    "a header too long": (
        lambda log: Files(events=EventFile(path=log, layout=Layout(header=["query_id", "item_id", "timestamp", "x"]))),
        "log.csv: none of its 4 events is good: {'not 4 columns': 4}",
    ),
    "no such file": (lambda log: Files(events=EventFile(path=log / "no.csv")), "SourceMissing|SourceDamaged"),
    "a folder": (lambda log: Files(events=EventFile(path=log.parent)), "SourceMissing: .* but it is a folder"),
    "items that are not there": (
        lambda log: Files(events=EventFile(path=log), items=ItemFile(path=log.parent / "items.csv")),
        r"SourceMissing: expected a file at .*items\.csv",
    ),
    "texts without items": (
        lambda log: Files(events=EventFile(path=log), items=ItemFile(text=["title"])),
        r"dataset\.columns\.items\.text names \['title'\], but dataset\.source\.items\.path is null",
    ),
    "texts that items do not have": (
        lambda log: Files(events=EventFile(path=log), items=ItemFile(path=log, text=["title"])),
        r"log\.csv: no column 'title' among",
    ),
    "queries without their column": (
        lambda log: Files(events=EventFile(path=log), queries=QueryFile(path=log, id="uid")),
        r"log\.csv: no column 'uid' among",
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_do_not_fit_are_refused(attempt, tmp_path, kind):
    make, message = SETTINGS[kind]
    (tmp_path / "log.csv").write_text(LOG)
    refused(attempt(lambda: make(tmp_path / "log.csv")), "Error|Missing|Mismatch|Damaged", message)
