"""A new version of the online store: the newest state of every query, written by Feast's materialisation.

Owns what a version holds and when readers see it. The directory is store_versions.py's, reads are online_store.py's,
newer states for a version that is there are state_writer.py's.

    versions/<name>/    a Feast repository: feature_store.yaml, registry.db, states.parquet (what it was first filled
                        with) and online.db, unless a Redis holds the values, under keys that end in the project's name

Older versions, and those that a killed `materialize` left, go with the next one, and so do their keys in a Redis.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FeaturesError, StoreUnavailable
from features.spec import FeatureSpec
from features.stores.feast_process import own_duckdb, quiet_feast
from features.stores.feast_repository import PROJECT, QUERY_STATE, Sources, create_repository, remove_repository
from features.stores.feature_files import read_spec
from features.stores.online_settings import OnlineSettings
from features.stores.query_states import MICROSECONDS
from features.stores.state_rows import EVENT_TIMESTAMP, QUERY_ID, STATE_AT_MS
from features.stores.store_versions import VERSIONS, new_version, one_writer, point_to, unread_versions

logger = logging.getLogger(__name__)

STATES = "states.parquet"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Materialized:
    """A version of the online store; num_bytes is what lies in its directory."""

    version: str
    num_queries: int
    num_bytes: int


def materialize(
    repo_dir: Path, *, states: Path, until_at_ms: int | None = None, online: OnlineSettings | None = None
) -> Materialized:
    """Make the newest states of a file what `OnlineStore` reads under `repo_dir`.

    Args:
        repo_dir: made where it does not exist.
        states: written by `offline_store.write_query_states`; it is linked or copied into the repository.
        until_at_ms: the newest instant whose events count, that instant included; None counts all.
        online: where the values lie and for how long they count; None: in the directory, for ever.

    Raises:
        FeaturesError: the file has no state by then, or another process writes in this directory.
        SchemaMismatch: the file is no table of states.
        StoreUnavailable: the store does not answer; the current version stays.
    """
    spec = read_spec(states)
    (repo_dir / VERSIONS).mkdir(parents=True, exist_ok=True)
    with one_writer(repo_dir):
        version = new_version(repo_dir)
        try:
            _link_or_copy(states, version / STATES)
            num_queries = _fill(version, spec=spec, until_at_ms=until_at_ms, online=online)
            point_to(repo_dir, version)
        finally:
            for unread in unread_versions(repo_dir):
                _remove(unread)
    num_bytes = sum(file.stat().st_size for file in version.iterdir())
    return Materialized(version=version.name, num_queries=num_queries, num_bytes=num_bytes)


def remove_store(repo_dir: Path) -> None:
    """Remove an online store, its values in a Redis included; nothing happens where there is none.

    Raises:
        StoreUnavailable: the Redis does not answer; what it holds is still on record in the directory.
    """
    if not (repo_dir / VERSIONS).is_dir():
        return
    with one_writer(repo_dir):
        for version in sorted((repo_dir / VERSIONS).iterdir()):
            remove_repository(version)
    shutil.rmtree(repo_dir)


def _fill(version: Path, *, spec: FeatureSpec, until_at_ms: int | None, online: OnlineSettings | None) -> int:
    """Write a version's repository and its online values; returns how many queries it has."""
    index = pq.read_table(version / STATES, columns=[QUERY_ID, EVENT_TIMESTAMP])
    at_us = index[EVENT_TIMESTAMP].cast(pa.int64())
    # A state holds from at most 1,000 microseconds after its event's millisecond.
    until_us = pc.max(at_us).as_py() if until_at_ms is None else (until_at_ms + 1) * MICROSECONDS
    counted = index.filter(pc.less_equal(at_us, until_us)) if index.num_rows else index
    if not counted.num_rows:
        raise FeaturesError(
            f"expected states to materialise; none of the {index.num_rows} states is from before {until_at_ms} ms"
        )
    with quiet_feast(), own_duckdb():
        repository = create_repository(
            version,
            spec=spec,
            sources=Sources(states=version / STATES),
            online=online,
            project=f"{PROJECT}_{version.name}",
        )
        with repository.answering():
            # A question first: Redis hangs up on whoever writes much without its password, but says so to a short one.
            asked = [f"{QUERY_STATE}:{STATE_AT_MS}"]
            repository.store.get_online_features(features=asked, entity_rows={QUERY_ID: [""]})
            repository.store.materialize(
                start_date=EPOCH + timedelta(microseconds=pc.min(at_us).as_py()),
                end_date=EPOCH + timedelta(microseconds=until_us),
            )
    return len(counted[QUERY_ID].unique())


def _remove(version: Path) -> None:
    try:
        remove_repository(version)
    except StoreUnavailable as error:
        logger.warning("online store: version %s stays until the next one is made: %s", version.name, error)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
