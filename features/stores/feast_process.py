"""What Feast does to a process, and how it is kept from doing it.

Owns the import of Feast, its output and its DuckDB. Knows nothing of what is asked of it.
"""

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

logger = logging.getLogger(__name__)


def import_feast() -> None:
    """Import Feast without what it does to the process; call before any `from feast import`.

    Feast is never imported at the top of a module: it costs 6 to 10 s of CPU and imports torch where torch is
    installed, which whoever only packs a history should not pay.
    """
    # Feast 0.67 reports to nobody, but it may import MLflow, which does.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Importing Feast sets these, for its own server: every counter of this process and its children would then live in
    # files. prometheus_client reads them when it is imported, so it goes first, and they are taken back.
    unset = [name for name in ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR") if name not in os.environ]
    importlib.import_module("prometheus_client")
    importlib.import_module("feast")
    for name in unset:
        os.environ.pop(name, None)


@contextlib.contextmanager
def quiet_feast() -> Iterator[None]:
    """Calls of Feast without what they print; redirects the output of the whole process, so it is for jobs alone."""
    import_feast()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
    if printed.getvalue():
        logger.debug("feast: %s", printed.getvalue())


@contextlib.contextmanager
def own_duckdb() -> Iterator[None]:
    """An in-memory DuckDB for what Feast's offline store computes meanwhile.

    It would take ibis's default one, with the tables of whoever else uses that, and a default one that lives until the
    interpreter ends prints a page about leaked types.
    """
    import ibis

    before = ibis.options.default_backend
    backend = ibis.duckdb.connect()
    ibis.set_backend(backend)
    try:
        yield
    finally:
        ibis.options.default_backend = before
        backend.disconnect()
