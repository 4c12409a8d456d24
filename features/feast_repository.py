"""A Feast repository of query states, generated from the names of its columns.

Owns the definitions (one entity, one feature view, one service), the repository's files, and what importing Feast does
to a process. What a state is stands in query_states.py; how states are kept and served in offline_store.py and
online_store.py.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import FeaturesError
from features.query_states import CREATED, EVENT_TIMESTAMP, HISTORY, QUERY_ID, STATE_AT_MS, StateColumns

if TYPE_CHECKING:
    from feast import FeatureStore

logger = logging.getLogger(__name__)

PROJECT = "twostage"
VIEW = "query_state"
SERVICE = "query"

# Feast's DuckDB engine orders ties and joins in SQL; its default engine (dask) sorts ties with a sort that is not
# stable when it materialises, and builds every pair of request and state in memory when it joins.
CONFIGURATION = f"""\
project: {PROJECT}
provider: local
registry:
  path: registry.db
  cache_ttl_seconds: 0
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""


def create_repository(directory: Path, *, states: Path, columns: StateColumns, tags: dict[str, str]) -> "FeatureStore":
    """Write a repository over a parquet file of states into an empty directory; returns Feast's store.

    Args:
        directory: exists.
        states: stays where it is for as long as the repository is used.
        columns: of that file.
        tags: kept with the view, see `open_repository`.
    """
    with quiet_feast():
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
        from feast.types import Bytes, Float64, Int64, String
        from feast.value_type import ValueType

        query = Entity(name="query", join_keys=[QUERY_ID], value_type=ValueType.STRING)
        view = FeatureView(
            name=VIEW,
            entities=[query],
            schema=[
                Field(name=QUERY_ID, dtype=String),
                Field(name=HISTORY, dtype=Bytes),
                Field(name=STATE_AT_MS, dtype=Int64),
                *(Field(name=name, dtype=String) for name in columns.categories),
                *(Field(name=name, dtype=Float64) for name in columns.numbers),
            ],
            source=FileSource(
                name="query_states",
                path=str(states.absolute()),
                timestamp_field=EVENT_TIMESTAMP,
                created_timestamp_column=CREATED,
            ),
            tags={
                **tags,
                "categories": json.dumps(columns.categories),
                "numbers": json.dumps(columns.numbers),
            },
        )
        (directory / "feature_store.yaml").write_text(CONFIGURATION, encoding="utf-8")
        store = FeatureStore(repo_path=str(directory))
        store.apply([query, view, FeatureService(name=SERVICE, features=[view])])
        return store


def open_repository(directory: Path) -> tuple["FeatureStore", StateColumns, dict[str, str]]:
    """Feast's store over a repository, with its columns and tags.

    Raises:
        FeaturesError: there is no repository.
    """
    if not (directory / "feature_store.yaml").is_file():
        raise FeaturesError(f"expected a Feast repository at {directory}; it has no feature_store.yaml")
    import_feast()
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(directory))
    tags = dict(store.get_feature_view(VIEW).tags)
    columns = StateColumns(
        categories=tuple(json.loads(tags.pop("categories"))), numbers=tuple(json.loads(tags.pop("numbers")))
    )
    return store, columns, tags


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
