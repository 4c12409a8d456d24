"""A Feast repository, generated from the FeatureSpec.

Owns the definitions and the repository's files:

    entity   view             columns                                               service
    query    query_state      state_rows.py                                         query, training
    item     item_facts       item features that come from the dataset              item
             item_statistics  item features as of a tick                            item, training

What a state is stands in state_rows.py and what a row of an item is in item_tables.py; how they are kept and served in
offline_store.py and online_store.py. A repository defines the views that it has a file for, and their services.
"""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from features.errors import FeaturesError, StoreUnavailable
from features.spec import FeatureSpec
from features.stores.feast_process import import_feast, quiet_feast
from features.stores.item_tables import FactColumns, statistics_schema
from features.stores.online_settings import PASSWORD_VARIABLE, OnlineSettings, with_password
from features.stores.state_rows import CREATED, EVENT_TIMESTAMP, QUERY_ID, StateColumns
from features.vocab import ITEM_ID

if TYPE_CHECKING:
    from feast import FeatureStore, Field

QUERY_STATE, ITEM_FACTS, ITEM_STATISTICS = "query_state", "item_facts", "item_statistics"
QUERY_SERVICE, ITEM_SERVICE, TRAINING_SERVICE = "query", "item", "training"
SERVICES = {
    QUERY_SERVICE: (QUERY_STATE,),
    ITEM_SERVICE: (ITEM_FACTS, ITEM_STATISTICS),
    TRAINING_SERVICE: (QUERY_STATE, ITEM_STATISTICS),
}
PROJECT = "twostage"
CONFIGURATION_FILE = "feature_store.yaml"
# One transaction of sqlite's, or one message to a Redis, whose time-out counts for the whole of it.
ROWS_A_BATCH = 1_000


@dataclass(frozen=True)
class Sources:
    """Parquet files of the views; a repository has no view for one that is None.

    The files stay where they are for as long as the repository is used.
    """

    states: Path | None = None
    item_facts: Path | None = None
    item_statistics: Path | None = None

    @property
    def by_view(self) -> dict[str, Path]:
        """The files there are, by the name of their view."""
        paths = {QUERY_STATE: self.states, ITEM_FACTS: self.item_facts, ITEM_STATISTICS: self.item_statistics}
        return {view: path for view, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Repository:
    """An opened repository.

    Attributes:
        store: Feast's.
        columns: of a query's state.
        spec_hash: of the FeatureSpec that it was generated from.
        ttl_ms: of a query's state; None: it never expires.
    """

    store: "FeatureStore"
    columns: StateColumns
    spec_hash: str
    ttl_ms: int | None

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Reads and writes of online values; StoreUnavailable if they fail."""
        try:
            yield
        except self._failures as error:
            raise StoreUnavailable(
                f"expected an answer of {self._address}; got {type(error).__name__}: {error}; mend it, or export to "
                "another store: scripts/export_release.py features.online=..."
            ) from error

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        if self.store.config.online_config["type"] != "redis":
            return (sqlite3.Error,)
        from redis import RedisError

        return (RedisError,)

    @property
    def _address(self) -> str:
        online = self.store.config.online_config
        if online["type"] != "redis":
            return f"{self.store.repo_path / online['path']}"
        place = online["connection_string"].split(",")[0]  # what follows may hold a password
        return f"the Redis at {place}, with the password that {PASSWORD_VARIABLE} holds, if any"


def create_repository(
    directory: Path,
    *,
    spec: FeatureSpec,
    sources: Sources,
    online: OnlineSettings | None = None,
    project: str = PROJECT,
) -> Repository:
    """Write a repository into an empty directory, and open it.

    Args:
        directory: exists.
        spec: what entities, views and services are generated from.
        sources: see there.
        online: where values will be served from, and for how long; None for joins alone.
        project: Feast's name space of online values; each version has its own, for one Redis holds several.

    Raises:
        StoreUnavailable: the online store does not answer.
    """
    settings = OnlineSettings() if online is None else online
    configuration = {
        "project": project,
        "provider": "local",
        "registry": {"path": "registry.db", "cache_ttl_seconds": 0},
        # Feast's DuckDB engine orders ties and joins in SQL; its default engine (dask) sorts ties with a sort that is
        # not stable when it materialises, and builds every pair of request and state in memory when it joins.
        "offline_store": {"type": "duckdb"},
        "online_store": settings.feast,
        "materialization": {"online_write_batch_size": ROWS_A_BATCH},
        "entity_key_serialization_version": 3,
    }
    # JSON is YAML.
    (directory / CONFIGURATION_FILE).write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")
    with quiet_feast():
        from feast import Entity, FeatureService, FeatureView, FileSource
        from feast.data_format import ParquetFormat
        from feast.value_type import ValueType

        query = Entity(name="query", join_keys=[QUERY_ID], value_type=ValueType.STRING)
        item = Entity(name="item", join_keys=[ITEM_ID], value_type=ValueType.STRING)
        views = {
            view: FeatureView(
                name=view,
                entities=[query if view == QUERY_STATE else item],
                schema=_fields(_schema(view, spec)),
                source=FileSource(
                    name=f"{view}_file",
                    path=str(path.absolute()),
                    file_format=ParquetFormat(),
                    timestamp_field=EVENT_TIMESTAMP,
                    created_timestamp_column=CREATED,
                ),
                ttl=settings.ttl if view == QUERY_STATE else None,
                online=view == QUERY_STATE,  # items are served from the release: docs/decisions/0008
                tags={"spec_hash": spec.hash, "columns": json.dumps(asdict(StateColumns.of(spec)))},
            )
            for view, path in sources.by_view.items()
        }
        services = [
            FeatureService(name=service, features=[views[view] for view in names])
            for service, names in SERVICES.items()
            if all(view in views for view in names)
        ]
        repository = Repository(
            store=_open(directory), columns=StateColumns.of(spec), spec_hash=spec.hash, ttl_ms=_ms(settings.ttl)
        )
        with repository.answering():
            repository.store.apply([query, item, *views.values(), *services])
        return repository


def _schema(view: str, spec: FeatureSpec) -> pa.Schema:
    if view == QUERY_STATE:
        return StateColumns.of(spec).schema
    return FactColumns.of(spec).schema if view == ITEM_FACTS else statistics_schema(spec)


def _fields(schema: pa.Schema) -> list["Field"]:
    """Columns of a file as Feast knows them, less its two instants."""
    from feast import Field
    from feast.types import Bytes, Float32, Float64, Int32, Int64, String

    types = {
        pa.string(): String,
        pa.binary(): Bytes,
        pa.int32(): Int32,
        pa.int64(): Int64,
        pa.float32(): Float32,
        pa.float64(): Float64,
    }
    return [
        Field(name=column.name, dtype=types[column.type])
        for column in schema
        if column.name not in (EVENT_TIMESTAMP, CREATED)
    ]


def open_repository(directory: Path) -> Repository:
    """The repository in a directory, which has a view of query states.

    Raises:
        FeaturesError: there is none.
    """
    if not (directory / CONFIGURATION_FILE).is_file():
        raise FeaturesError(f"expected a Feast repository at {directory}; it has no {CONFIGURATION_FILE}")
    import_feast()
    store = _open(directory)
    view = store.get_feature_view(QUERY_STATE)
    names = json.loads(view.tags["columns"])
    columns = StateColumns(categories=tuple(names["categories"]), numbers=tuple(names["numbers"]), text=names["text"])
    return Repository(store=store, columns=columns, spec_hash=view.tags["spec_hash"], ttl_ms=_ms(view.ttl))


def remove_repository(directory: Path) -> None:
    """Remove a directory and, where they lie in a Redis, its online values.

    Raises:
        StoreUnavailable: the Redis does not answer; the directory is left.
    """
    configuration = directory / CONFIGURATION_FILE
    if configuration.is_file() and json.loads(configuration.read_text())["online_store"]["type"] == "redis":
        with quiet_feast():
            repository = Repository(
                store=_open(directory), columns=StateColumns(categories=(), numbers=()), spec_hash="", ttl_ms=None
            )
            with repository.answering():
                repository.store.teardown()  # type: ignore[no-untyped-call]
    shutil.rmtree(directory)


def _ms(ttl: timedelta | None) -> int | None:
    return ttl // timedelta(milliseconds=1) if ttl else None


def _open(directory: Path) -> "FeatureStore":
    """Feast's store over a directory; the password of its online store, which no file holds, is put in here."""
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    config = load_repo_config(directory, directory / CONFIGURATION_FILE)
    if "connection_string" in config.online_config:
        config.online_config["connection_string"] = with_password(config.online_config["connection_string"])
    return FeatureStore(repo_path=str(directory), config=config)
