"""Whether this machine has what Spark needs: PySpark and Java, each of the right version.

Owns the two refusals and what they tell a reader to do. Knows nothing of sessions.
"""

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from features.errors import EngineUnusable

SPARK = 4
FIRST_JAVA = 17  # what Spark 4 is compiled for
INSTEAD = "or let DuckDB do it: etl.engine=duckdb"


def check_spark_installed() -> None:
    """Refuse a machine that Spark cannot run on.

    Raises:
        EngineUnusable: PySpark or Java is absent or of another version.
    """
    check_pyspark()
    check_java()


def check_pyspark() -> None:
    """Refuse an absent PySpark, and one that is not of Spark 4."""
    try:
        found = version("pyspark")
    except PackageNotFoundError:
        message = f"Spark needs PySpark, which is not installed: make setup EXTRAS=spark, {INSTEAD}"
        raise EngineUnusable(message) from None
    if not found.startswith(f"{SPARK}."):
        raise EngineUnusable(f"expected PySpark {SPARK}, found {found}: make setup EXTRAS=spark, {INSTEAD}")


def check_java() -> None:
    """Refuse an absent Java, and one older than Spark takes."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    mend = f"apt-get install openjdk-{FIRST_JAVA}-jre-headless, or set JAVA_HOME to such a one, {INSTEAD}"
    needed = f"Spark needs Java {FIRST_JAVA} or later"
    if java is None:
        raise EngineUnusable(f"{needed}, and no java is on PATH: {mend}")
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineUnusable(f"{needed}, and {java} does not run ({error}): {mend}") from None
    # 'openjdk version "17.0.15" ...'; what everybody calls Java 8 is "1.8.0_392".
    numbers = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    if numbers is None or int(numbers[1]) < FIRST_JAVA:
        found = numbers[1] if numbers else f"of no version ({answer.stderr.strip()})"
        raise EngineUnusable(f"{needed}, and {java} is {found}: {mend}")
