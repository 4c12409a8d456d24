"""Where the expressions of the ETL run: DuckDB in this process, or Spark on this machine or a cluster.

Owns an engine's settings, and the way of a table to it and of the rows back. Knows nothing of what an expression says.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Protocol

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends import BaseBackend

from features.errors import EngineUnusable
from features.spark_session import spark_session

Build = Callable[[ir.Table], ir.Table]
Run = Callable[[Build, pa.Table], pa.Table]


class Engine(Protocol):
    """What runs an expression over a table. One expression gives the same rows on every engine."""

    def started(self) -> AbstractContextManager[Run]:
        """A function that builds an expression on a table and returns its rows, for as long as the block lasts.

        Raises:
            EngineUnusable: the engine cannot start here.
        """
        ...


@dataclass(frozen=True)
class DuckDbEngine:
    """DuckDB, in this process and in memory.

    Attributes:
        threads: how many it may use; the rows are the same with any number.
        memory_limit: such as "2GB", beyond which it uses the disk; null is its own, four fifths of the machine's.
    """

    threads: int = 2
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, got {self.threads}")

    @contextmanager
    def started(self) -> Iterator[Run]:
        """Connect, and disconnect at the end."""
        with TemporaryDirectory(prefix="twostage-duckdb-") as folder:  # its own choice is the working directory
            settings: dict[str, object] = {"threads": self.threads, "temp_directory": folder}
            settings |= {"memory_limit": self.memory_limit} if self.memory_limit else {}
            try:
                backend = ibis.duckdb.connect(**settings)
            except duckdb.Error as error:
                raise EngineUnusable(f"DuckDB does not start with {settings}: {error}") from error
            try:
                yield _on(backend)
            finally:
                backend.disconnect()
                del backend.con  # a kept traceback keeps all of this alive, and DuckDB complains if it outlives Python


def _on(backend: BaseBackend) -> Run:
    def run(build: Build, events: pa.Table) -> pa.Table:
        return backend.to_pyarrow(build(ibis.memtable(events)))

    return run


DUCKDB = DuckDbEngine()


@dataclass(frozen=True)
class SparkEngine:
    """Spark 4 through PySpark, which is an extra (`make setup EXTRAS=spark`) and needs Java.

    Attributes:
        master: "local[2]" is two threads on this machine; a cluster has a URL, such as "spark://host:7077".
        memory: of the driver, which both tables pass; with a local master it is all the memory that Spark has.
        settings: any more of Spark's own, such as {"spark.executor.memory": "8g"}; they prevail over ours.
    """

    master: str = "local[2]"
    memory: str = "2g"
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def started(self) -> Iterator[Run]:
        """Start a session in a JVM of its own, and end both at the end."""
        with spark_session(master=self.master, memory=self.memory, settings=self.settings) as session:
            backend = ibis.pyspark.connect(session)

            def run(build: Build, events: pa.Table) -> pa.Table:
                # As Arrow through the driver, so that a cluster needs no folder in common with this machine.
                session.createDataFrame(events).createOrReplaceTempView("events")
                expression = build(ibis.table(ibis.Schema.from_pyarrow(events.schema), name="events"))
                # backend.to_pyarrow goes through pandas, where integers beside a null become floats.
                rows = session.sql(backend.compile(expression)).toArrow()
                return rows.cast(expression.schema().to_pyarrow())

            yield run
