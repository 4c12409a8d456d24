"""What is said where Spark cannot run, and how a session ends when it is not ended in peace."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.errors import EngineUnusable
from features.spark_installed import check_java, check_spark_installed

ROOT = Path(__file__).parents[2]
ALONE = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def _needs_spark() -> None:
    try:
        check_spark_installed()
    except EngineUnusable as error:
        pytest.skip(str(error))


def fake_java(folder: Path, *, said: str, status: int = 0) -> Path:
    (folder / "bin").mkdir()
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {status}\n")
    java.chmod(0o755)
    return java


def test_a_machine_without_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnusable) as caught:
        check_java()
    assert str(caught.value) == (
        "Spark needs Java 17 or later, and no java is on PATH: apt-get install openjdk-17-jre-headless, "
        "or set JAVA_HOME to such a one, or let DuckDB do it: etl.engine=duckdb"
    )


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('openjdk version "11.0.22" 2024-01-16', "is 11:"),
        ('java version "1.8.0_392"', "is 8:"),
        ("The operation couldn't be completed", "is of no version"),
    ],
)
def test_an_older_java_is_named_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: str
) -> None:
    java = fake_java(tmp_path, said=said.replace("'", ""))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineUnusable, match=f"Java 17 or later, and {java} {found}"):
        check_java()


@pytest.mark.parametrize("said", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19'])
def test_java_17_and_later_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    fake_java(tmp_path, said=said)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    check_java()


def test_a_java_home_without_a_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineUnusable, match=f"{tmp_path}/bin/java does not run"):
        check_java()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "Spark needs PySpark, which is not installed: make setup EXTRAS=spark, or let DuckDB do it"),
        ("3.5.1", "expected PySpark 4, found 3.5.1: make setup EXTRAS=spark, or let DuckDB do it"),
    ],
)
def test_a_pyspark_that_is_absent_or_older_is_named(tmp_path: Path, version: str | None, message: str) -> None:
    if version is not None:
        (tmp_path / f"pyspark-{version}.dist-info").mkdir()
        (tmp_path / f"pyspark-{version}.dist-info" / "METADATA").write_text(f"Name: pyspark\nVersion: {version}\n")
    # -S: this Python without what is installed into it.
    script = "from features.spark_installed import check_spark_installed; check_spark_installed()"
    command = [sys.executable, "-S", "-c", script]
    environment = {**ALONE, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert f"EngineUnusable: {message}" in answer.stderr


@pytest.mark.usefixtures("_needs_spark")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("memory='much'", "Spark does not start on local[2]: Invalid maximum heap size: -Xmxmuch"),
        ("master='nowhere'", "Spark does not start on nowhere: "),
    ],
)
def test_settings_that_spark_refuses_are_said_with_its_reason(arguments: str, reason: str) -> None:
    script = f"""
    from features.engines import SparkEngine
    from features.errors import EngineUnusable
    try:
        SparkEngine({arguments}).started().__enter__()
    except EngineUnusable as error:
        print(error)
    """
    answer = run(script)
    assert answer.stdout.startswith(reason)
    assert "see etl.spark, or let DuckDB do it: etl.engine=duckdb" in answer.stdout


# A session in the middle of a query of 10^15 rows, which must not be waited for.
BUSY = """
import os, signal, threading, time
import ibis, psutil, pyarrow as pa
from features.engines import SparkEngine

def endless(table):
    triples = table.cross_join(table.rename(b="a")).cross_join(table.rename(c="a"))
    return triples.aggregate(n=(ibis._.a + ibis._.b * ibis._.c).max())

def disturb(number, everybody):
    time.sleep(5)
    (java,) = [child for child in psutil.Process().children() if child.name() == "java"]
    os.kill(java.pid if everybody else os.getpid(), number)

table = pa.table({"a": list(range(100_000))})
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_needs_spark")
@pytest.mark.parametrize(("java_dies", "outcome"), [(False, "KeyboardInterrupt"), (True, "EngineUnusable")])
def test_a_query_that_is_interrupted_ends_with_its_jvm_and_the_next_session_works(
    java_dies: bool, outcome: str
) -> None:
    number = "SIGKILL" if java_dies else "SIGINT"
    answer = run(
        BUSY
        + f"""
try:
    with SparkEngine().started() as run:
        threading.Thread(target=disturb, args=(signal.{number}, {java_dies})).start()
        run(endless, table)
except BaseException as error:
    print(type(error).__name__, [child.name() for child in psutil.Process().children()])
with SparkEngine().started() as run:
    print(run(lambda events: events.aggregate(n=events.count()), table).to_pylist())
"""
    )
    assert answer.stdout.splitlines() == [f"{outcome} []", "[{'n': 100000}]"], answer.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The URL of a Spark of its own, of one master and one worker, as it would run on other machines."""
    import pyspark

    start = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(tmp_path)}
    package = "org.apache.spark.deploy"
    common = ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = {
        "master": [start, f"{package}.master.Master", *common, "--port", "0"],
        "worker": [start, f"{package}.worker.Worker", *common, "--cores", "1", "--memory", "1g"],
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        with (tmp_path / "master.log").open("wb") as log:
            started.append(subprocess.Popen(commands["master"], env=environment, cwd=tmp_path, stderr=log))
        url = wait_for_url(tmp_path / "master.log")
        with (tmp_path / "worker.log").open("wb") as log:
            worker = [*commands["worker"], "--work-dir", str(tmp_path / "work"), url]
            started.append(subprocess.Popen(worker, env=environment, cwd=tmp_path, stderr=log))
        yield url
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.usefixtures("_needs_spark")
def test_a_cluster_is_reached_by_its_url(cluster: str, tmp_path: Path) -> None:
    answer = run(
        f"""
        import pyarrow as pa
        from features.engines import DUCKDB, SparkEngine
        from features.etl import item_days

        settings = {{"spark.driver.host": "127.0.0.1", "spark.executor.memory": "512m"}}
        num = 1000
        events = pa.table({{
            "item_id": [str(place % 7) for place in range(num)],
            "occurred_at_ms": list(range(num)),
            "split": ["train"] * num,
            "relevance": [1.0] * num,
            "value": [place / 7 for place in range(num)],
        }})
        rows = []
        for engine in (DUCKDB, SparkEngine(master={cluster!r}, memory="1g", settings=settings)):
            with engine.started() as run:
                rows.append(run(item_days, events))
        print(rows[0].num_rows, rows[0].equals(rows[1]))
        """
    )
    assert answer.stdout.split() == ["7", "True"], answer.stderr
    assert "Executor added" in (tmp_path / "master.log").read_text() or list((tmp_path / "work").iterdir())


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=280, check=False)


def wait_for_url(log: Path) -> str:
    import re
    import time

    for _ in range(600):
        found = re.search(r"spark://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())
