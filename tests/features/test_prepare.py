import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import SplitLeak
from features.events import RAW_EVENTS, RAW_ITEMS, RAW_QUERIES, RawTables
from features.labels import RatingLabels
from features.prepare import Report, prepare
from features.split import LeaveOneOut

NOW_AT_MS = 10**12


@dataclass(frozen=True)
class FakeSource:
    """Two queries with histories of 4 and 1 events; a correction, a copy, and an event of an unknown item."""

    error: BaseException | None = None

    def read(self) -> RawTables:
        if self.error is not None:
            raise self.error
        rows = [("q", "a", 3.0, 10), ("q", "b", 4.0, 20), ("q", "c", 1.0, 30), ("q", "c", 5.0, 30), ("q", "a", 2.0, 40)]
        rows += [("p", "a", 3.0, 15), ("p", "a", 3.0, 15), ("p", "z", 3.0, 16)]
        names = ("query_id", "item_id", "value", "occurred_at")
        events = [
            {**dict(zip(names, row, strict=True)), "event": "rating", "source_row": n} for n, row in enumerate(rows)
        ]
        items = [{"item_id": item_id, "source_row": n} for n, item_id in enumerate("abc")]
        queries = [{"query_id": query_id, "source_row": n} for n, query_id in enumerate("pq")]
        return RawTables(
            events=pa.Table.from_pylist(events, schema=RAW_EVENTS),
            items=pa.Table.from_pylist(items, schema=RAW_ITEMS),
            queries=pa.Table.from_pylist(queries, schema=RAW_QUERIES),
            facts={"films_matched": 2},
        )


@dataclass(frozen=True)
class LeakingSplit:
    """Puts every event after the first into train."""

    def assign(self, events: pa.Table) -> pa.Table:
        splits = ["test"] + ["train"] * (events.num_rows - 1)
        return events.append_column("split", pa.array(splits))

    def check(self, events: pa.Table) -> None:
        LeaveOneOut().check(events)


def run(out_dir: Path, *, source: FakeSource | None = None, split: LeaveOneOut | LeakingSplit | None = None) -> Report:
    return prepare(
        source=source or FakeSource(),
        labels=RatingLabels(),
        split=split or LeaveOneOut(ranking_events=1),
        out_dir=out_dir,
        name="fake",
        now_at_ms=NOW_AT_MS,
        progress=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_holds_the_agreed_tables(tmp_path):
    run(tmp_path / "data")
    assert list(contents(tmp_path / "data")) == [
        "events.parquet",
        "item_days.parquet",
        "items.parquet",
        "queries.parquet",
        "raw/events.parquet",
        "raw/items.parquet",
        "raw/queries.parquet",
        "rejected/events.parquet",
        "rejected/items.parquet",
        "rejected/queries.parquet",
        "report.json",
    ]
    events = pq.read_table(tmp_path / "data/events.parquet")
    assert {field.name: str(field.type) for field in events.schema} == {
        "query_id": "string",
        "item_id": "string",
        "event": "string",
        "value": "double",
        "occurred_at_ms": "int64",
        "source_row": "int64",
        "position": "int32",
        "relevance": "float",
        "label_source": "string",
        "split": "string",
    }
    # q's history is a, b, c (the correction, row 3), a; p's is a.
    assert events.select(["query_id", "item_id", "source_row", "position", "split"]).to_pylist() == [
        {"query_id": "q", "item_id": "a", "source_row": 0, "position": 0, "split": "train"},
        {"query_id": "p", "item_id": "a", "source_row": 5, "position": 0, "split": "train"},
        {"query_id": "q", "item_id": "b", "source_row": 1, "position": 1, "split": "ranking"},
        {"query_id": "q", "item_id": "c", "source_row": 3, "position": 2, "split": "validation"},
        {"query_id": "q", "item_id": "a", "source_row": 4, "position": 3, "split": "test"},
    ]


def test_the_report_accounts_for_every_row_and_says_what_the_splits_hold(tmp_path):
    report = run(tmp_path / "data")
    assert report == json.loads((tmp_path / "data/report.json").read_text())
    assert report["rows"]["events"] == {
        "read": 8,
        "kept": 5,
        "set_aside": {
            "exact copy of an earlier row": 1,
            "replaced by a later row of the same action": 1,
            "unknown item": 1,
        },
    }
    assert {name: counts["events"] for name, counts in report["splits"].items()} == {
        "train": 2,
        "ranking": 1,
        "validation": 1,
        "test": 1,
    }
    assert report["splits"]["train"]["queries"] == 2
    assert report["window"] == {"first_at_ms": 10, "last_at_ms": 40}
    assert (report["dataset"], report["facts"]) == ("fake", {"films_matched": 2})
    assert pq.read_table(tmp_path / "data/rejected/events.parquet")["source_row"].to_pylist() == [2, 6, 7]


def test_item_days_hold_every_clean_event_once(tmp_path):
    report = run(tmp_path / "data")
    days = pq.read_table(tmp_path / "data/item_days.parquet")
    assert sum(days["num_events"].to_pylist()) == report["rows"]["events"]["kept"]
    assert sum(days["value_sum"].to_pylist()) == 3 + 4 + 5 + 2 + 3


def test_two_runs_write_the_same_bytes(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_run_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path):
    run(tmp_path / "data")
    (tmp_path / "data/stale.bin").write_bytes(b"of another run")
    run(tmp_path / "data")
    assert "stale.bin" not in contents(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("disk")], ids=["ctrl-c", "error"])
def test_a_run_that_is_stopped_leaves_the_old_folder_as_it_was(tmp_path, error):
    run(tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(type(error)):
        run(tmp_path / "data", source=FakeSource(error=error))
    assert contents(tmp_path / "data") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_split_that_leaks_leaves_no_folder(tmp_path):
    with pytest.raises(SplitLeak, match=r"row 0 \(query q"):
        run(tmp_path / "data", split=LeakingSplit())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_signal_leaves_nothing_behind(tmp_path):
    program = f"""
        import time
        from pathlib import Path
        from features.labels import RatingLabels
        from features.prepare import prepare
        from features.split import LeaveOneOut

        class Waiting:
            def read(self):
                time.sleep(60)

        out_dir = Path({str(tmp_path / "data")!r})
        prepare(source=Waiting(), labels=RatingLabels(), split=LeaveOneOut(), out_dir=out_dir, name="x")
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE)
    try:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in stderr
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed_but_not_those_of_living_ones(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for owner in (ended.pid, os.getppid()):
        (tmp_path / f".data.partial-{owner}").mkdir()
    (tmp_path / f".data.replaced-{ended.pid}").mkdir()
    run(tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".data.partial-{os.getppid()}", "data"]


def test_the_log_says_what_was_done_and_where_it_lies(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="features.prepare")
    run(tmp_path / "data")
    assert "events: 8 read, 5 kept; set aside: 1 exact copy of an earlier row" in caplog.text
    assert f"tables and report.json lie in {tmp_path / 'data'}" in caplog.text
