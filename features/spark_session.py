"""A Spark session that leaves no process, file or setting behind.

Owns the JVM: how it starts and ends, where it listens and what it writes. PySpark is an extra, and imported on use
alone.
"""

import os
import re
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from features.errors import EngineUnusable
from features.spark_installed import INSTEAD, SPARK, check_spark_installed

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

LOOPBACK = "127.0.0.1"
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
STOP_SECONDS = 30
NOISE = ("\tat ", "WARNING: Using incubator modules")  # stacks, and what Spark's own start script brings about

# The gateway's level is named because Spark announces it where it differs.
LOGGING = """
rootLogger.level = {level}
rootLogger.appenderRef.stderr.ref = stderr
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = {level}
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = Spark: %p %m%n%ex
"""


@contextmanager
def spark_session(*, master: str, memory: str, settings: Mapping[str, str]) -> "Iterator[SparkSession]":
    """Start a JVM with a session, and end both when the block ends, however it ends.

    Raises:
        EngineUnusable: PySpark or Java is absent or of another version, Spark does not start with these settings, or
            it breaks off.
    """
    check_spark_installed()
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    if SparkContext._active_spark_context is not None:
        raise EngineUnusable(f"a Spark session runs in this process already; stop it first, {INSTEAD}")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(TemporaryDirectory(prefix="twostage-spark-")))
        said = folder / "said.txt"
        conf = SparkConf(loadDefaults=False)
        conf.setAll(list(_settings(master=master, memory=memory, more=settings, folder=folder).items()))
        try:
            gateway = ending.enter_context(_java_process(conf, said=said, is_local=_is_local(master)))
            with _interrupts_restored():  # PySpark puts a handler of its own in the place of whatever is there
                session = SparkSession(SparkContext(gateway=gateway, conf=conf))
            ending.callback(_stop, session)
            ending.enter_context(_interruptible(session))
            session.range(1).count()  # a context of a cluster that does not answer is made all the same, and is dead
        except (PySparkException, Py4JError) as error:
            heard = said.read_text(errors="replace") if said.exists() else ""
            reason = _first_lines(heard) or _first_lines(str(error))
            raise EngineUnusable(f"Spark does not start on {master}: {reason}; see etl.spark, {INSTEAD}") from error
        if not session.version.startswith(f"{SPARK}."):
            home = os.environ.get("SPARK_HOME")
            raise EngineUnusable(f"expected Spark {SPARK}, SPARK_HOME={home} is {session.version}; unset it, {INSTEAD}")
        try:
            yield session
        # The JVM's own error, such as that its memory is full; where it is gone, Py4J's or that of its socket.
        except (Py4JError, ConnectionError) as error:
            message = f"Spark broke off: {_first_lines(str(error))}; it had etl.spark.memory={memory}, {INSTEAD}"
            raise EngineUnusable(message) from error


def _settings(*, master: str, memory: str, more: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What we ask of Spark: nothing written to the working directory, nothing open to other machines, no chatter."""
    logging = folder / "log4j2.properties"
    logging.write_text(LOGGING.format(level="error" if _is_local(master) else "warn"))
    java = f"-Djava.io.tmpdir={folder} -Dderby.system.home={folder} -Dlog4j2.configurationFile=file:{logging}"
    ours = {
        "spark.master": master,
        "spark.app.name": "twostage",
        "spark.driver.memory": memory,
        "spark.driver.maxResultSize": "0",  # every row comes here, however many: this process writes the tables
        JAVA_OPTIONS: f"{java} -XX:-UsePerfData {more.get(JAVA_OPTIONS, '')}",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.session.timeZone": "UTC",
        # A batch becomes a partition: of the default, 10,000 rows, 1.5 M events have 150.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if _is_local(master):
        ours |= {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK}
        ours |= {"spark.sql.shuffle.partitions": "8"}
    return ours | {name: value for name, value in more.items() if name != JAVA_OPTIONS}


def _is_local(master: str) -> bool:
    return re.fullmatch(r"local(\[.*\])?", master) is not None


@contextmanager
def _java_process(conf: "SparkConf", *, said: Path, is_local: bool) -> "Iterator[JavaGateway]":
    """The JVM that PySpark drives. What it says is kept for an error; a cluster's warnings are shown as they come."""
    from pyspark import SparkContext
    from pyspark.java_gateway import launch_gateway

    gateway = None
    try:
        with said.open("wb") as file, _loopback() if is_local else nullcontext(), _interrupts_held_back():
            gateway = launch_gateway(conf, {"stdout": file, "stderr": file} if is_local else None)
        yield gateway
    finally:
        if gateway is not None:
            # PySpark would keep the JVM and its memory until this process ends, and take it for the next session.
            SparkContext._gateway = SparkContext._jvm = None
            with suppress(OSError):
                gateway.shutdown()
            _end(gateway.proc)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()  # which Spark's JVM takes for the order to end
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop(session: "SparkSession") -> None:
    from py4j.protocol import Py4JError
    from pyspark.sql import SparkSession

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the JVM does not answer: it is ended next, if it is not dead already
            session.stop()
    except (Py4JError, OSError):
        session.sparkContext.stop()  # the second time it only forgets, and is no error
        SparkSession._instantiatedSession = SparkSession._activeSession = None


@contextmanager
def _loopback() -> Iterator[None]:
    """Name the address: Spark looks the machine's own name up otherwise, which not every machine can."""
    former = os.environ.get("SPARK_LOCAL_IP")
    os.environ["SPARK_LOCAL_IP"] = LOOPBACK
    try:
        yield
    finally:
        if former is None:
            del os.environ["SPARK_LOCAL_IP"]
        else:
            os.environ["SPARK_LOCAL_IP"] = former


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: PySpark loses sight of a JVM whose start is interrupted."""
    came: list[int] = []
    with _interrupts_restored():
        if _is_main_thread():
            signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
        yield
    if came:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _interruptible(session: "SparkSession") -> Iterator[None]:
    """Have Ctrl-C stop Spark first: PySpark waits for the rows of a query even while KeyboardInterrupt passes it."""
    former = signal.getsignal(signal.SIGINT)
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # More than PySpark's own handler does: to cancel all jobs misses those that a query is about to start.
        session.sparkContext._jsc.stop()
        if callable(former):
            former(number, frame)

    with _interrupts_restored():
        if _is_main_thread() and callable(former):
            signal.signal(signal.SIGINT, stop)
        try:
            yield
        except Exception:
            if came:  # the query that was stopped has an error of its own
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _interrupts_restored() -> Iterator[None]:
    former = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if _is_main_thread():
            signal.signal(signal.SIGINT, former)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if not line.startswith(NOISE)]
    return " ".join(line for line in lines[:3] if line)
