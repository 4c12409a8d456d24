"""What prepares hostile input into a folder that holds good tables, and looks at what is left there."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ibis
import pyarrow.parquet as pq

from features.engines import Run
from features.errors import FeaturesError
from features.events import TABLES, Source
from features.labels import RatingLabels
from features.prepare import prepare
from features.sources.files import EventFile, Files
from features.split import LeaveOneOut

NOW_AT_MS = 2 * 10**12
GOOD_LOG = "query_id,item_id,timestamp\nq,a,1\nq,b,2\nq,c,3\n"


@dataclass(frozen=True)
class Outcome:
    """How preparing ended: with an error's words, or with rows set aside, by table and reason."""

    error: str = ""
    read: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)
    rejected_events: tuple[Mapping[str, Any], ...] = ()


class Preparing:
    """Good tables, and DuckDB connected once: to connect takes longer than to prepare a few rows."""

    def __init__(self, folder: Path) -> None:
        self._backend = ibis.duckdb.connect(threads=1)
        self._good = folder / "tables"
        (folder / "log.csv").write_text(GOOD_LOG)
        self._prepare(Files(events=EventFile(path=folder / "log.csv")), self._good)

    @contextmanager
    def started(self) -> Iterator[Run]:
        """The engine that `prepare` is given."""
        yield lambda build, events: self._backend.to_pyarrow(build(ibis.memtable(events)))

    def stop(self) -> None:
        self._backend.disconnect()

    def attempt(self, make: Callable[[], Source], home: Path) -> Outcome:
        """Prepare a source over a copy of the good tables, in a new folder.

        Any error but our own comes out of here. One of ours must have left the tables as they were, and nothing beside
        them; without one every row of the events' file must be among those that were kept or set aside, once.
        """
        shutil.copytree(self._good, home / "tables")
        before = _contents(home)
        try:
            report = self._prepare(make(), home / "tables")
        except FeaturesError as error:
            assert _contents(home) == before
            assert [path.name for path in home.iterdir()] == ["tables"]
            return Outcome(error=f"{type(error).__name__}: {error}")
        rows = report["rows"]
        rejected = pq.read_table(home / "tables/rejected/events.parquet").to_pylist()
        kept = pq.read_table(home / "tables/events.parquet")["source_row"].to_pylist()
        assert sorted([*kept, *(row["source_row"] for row in rejected)]) == list(range(rows["events"]["read"]))
        for table in TABLES:
            assert rows[table]["read"] == rows[table]["kept"] + sum(rows[table]["set_aside"].values())
        return Outcome(
            read={table: rows[table]["read"] for table in TABLES},
            set_aside={table: rows[table]["set_aside"] for table in TABLES if rows[table]["set_aside"]},
            facts=report["facts"],
            rejected_events=tuple(rejected),
        )

    def _prepare(self, source: Source, out_dir: Path) -> dict[str, Any]:
        return prepare(
            source=source,
            labels=RatingLabels(),
            split=LeaveOneOut(ranking_events=0),
            out_dir=out_dir,
            name="hostile",
            engine=self,
            now_at_ms=NOW_AT_MS,
            progress=False,
        )


def refused(outcome: Outcome, *messages: str) -> None:
    """The error says all that these patterns ask for."""
    for message in messages:
        assert re.search(message, outcome.error), outcome.error


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
