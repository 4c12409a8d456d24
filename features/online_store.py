"""Query states for serving: the newest of each query, in Feast's online store.

Owns the store's directory and its reads. Knows nothing of models or of HTTP.

    repo_dir/
      current -> versions/<name>     replaced in one step, so that a reader sees the old store or the new one, whole
      previous -> versions/<name>    kept for readers that were just opening it
      versions/<name>/               a Feast repository: feature_store.yaml, registry.db, online.db, states.parquet

Older versions, and those that a killed `materialize` left, go with the next one.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FeaturesError
from features.feast_repository import SERVICE, create_repository, open_repository, own_duckdb, quiet_feast
from features.query_states import (
    EVENT_TIMESTAMP,
    MICROSECONDS,
    QUERY_ID,
    STATE_AT_MS,
    StateColumns,
    decode_states,
)
from features.transforms import QueryFeatures

logger = logging.getLogger(__name__)

CURRENT = "current"
PREVIOUS = "previous"
VERSIONS = "versions"
STATES = "states.parquet"
# sqlite takes a bounded number of values in one statement.
QUERIES_A_READ = 5_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Materialized:
    """A version of the online store."""

    version: str
    num_queries: int
    num_bytes: int


def materialize(repo_dir: Path, *, states: Path, until_at_ms: int | None = None, spec_hash: str = "") -> Materialized:
    """Make the newest states of a file what `OnlineStore` reads under `repo_dir`.

    Args:
        repo_dir: made where it does not exist.
        states: written by `offline_store.write_query_states`; it is linked or copied into the repository.
        until_at_ms: the newest instant whose events count, that instant included; None counts all.
        spec_hash: FeatureSpec that the columns are for; readers find it as `OnlineStore.spec_hash`.

    Raises:
        FeaturesError: the file has no state by then, or another `materialize` runs in this directory.
        SchemaMismatch: the file is no table of states.
    """
    columns = StateColumns.from_schema(pq.read_schema(states))
    (repo_dir / VERSIONS).mkdir(parents=True, exist_ok=True)
    with _one_writer(repo_dir):
        version = Path(tempfile.mkdtemp(prefix="v", dir=repo_dir / VERSIONS))
        version.chmod(0o755)  # mkdtemp's is for its user alone, and the gateway may run as another
        try:
            _link_or_copy(states, version / STATES)
            num_queries = _fill(version, columns=columns, until_at_ms=until_at_ms, tags={"spec_hash": spec_hash})
            _point_to(repo_dir, version)
        finally:
            _remove_old(repo_dir)
    num_bytes = sum(file.stat().st_size for file in version.iterdir())
    return Materialized(version=version.name, num_queries=num_queries, num_bytes=num_bytes)


class OnlineStore:
    """Reads of query states; threads may share one, their reads take turns.

    A read follows `materialize`: it opens the new version when `current` points to another one.

    Attributes:
        columns: the attributes' names, in the order in which `read` returns them.
        spec_hash: of the FeatureSpec that the version was materialised for.
        version: name of the version.
    """

    columns: StateColumns
    spec_hash: str
    version: str

    def __init__(self, *, repo_dir: Path, ttl_ms: int | None) -> None:
        self._repo_dir = repo_dir
        self._ttl_ms = ttl_ms
        # Feast's sqlite store is one connection, and its registry cache one dictionary.
        self._lock = threading.Lock()
        self._open(_current(repo_dir))

    @classmethod
    def open(cls, repo_dir: Path, *, ttl_ms: int | None = None) -> Self:
        """Open the current version.

        Args:
            repo_dir: as given to `materialize`.
            ttl_ms: a state older than this at the request is an unknown query's. Feast 0.67 does not look at its own
                ttl when it reads (feast issue 6821).

        Raises:
            FeaturesError: nothing was materialised there.
        """
        return cls(repo_dir=repo_dir, ttl_ms=ttl_ms)

    def read(self, query_ids: Sequence[str], *, requested_at_ms: Sequence[int]) -> tuple[QueryFeatures, list[bool]]:
        """Features of N queries, and [N] whether each is known; an unknown one has an empty history, "" and nan.

        Raises:
            FeaturesError: the lengths differ.
        """
        if len(query_ids) != len(requested_at_ms):
            raise FeaturesError(f"expected an instant for each of {len(query_ids)} queries; got {len(requested_at_ms)}")
        with self._lock:
            newest = _current(self._repo_dir)
            if newest.name != self.version:
                self._open(newest)
            columns, rows = self.columns, self._rows(query_ids)
        if self._ttl_ms is not None:
            for n, (state_at_ms, now_ms) in enumerate(zip(rows[STATE_AT_MS], requested_at_ms, strict=True)):
                if state_at_ms is not None and now_ms - state_at_ms > self._ttl_ms:
                    for name in columns.features:
                        rows[name][n] = None
        return decode_states(rows, columns=columns, requested_at_ms=requested_at_ms)

    def _rows(self, query_ids: Sequence[str]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name in self.columns.features}
        for start in range(0, len(query_ids), QUERIES_A_READ):
            ids = list(query_ids[start : start + QUERIES_A_READ])
            answer = self._store.get_online_features(features=self._features, entity_rows={QUERY_ID: ids}).to_dict()
            for name, values in rows.items():
                values.extend(answer[name])
        return rows

    def _open(self, version: Path) -> None:
        self._store, self.columns, tags = open_repository(version)
        self._features = self._store.get_feature_service(SERVICE)
        self.spec_hash, self.version = tags["spec_hash"], version.name
        logger.info("online store: version %s for feature spec %s", self.version, self.spec_hash or "(none)")


@contextlib.contextmanager
def _one_writer(repo_dir: Path) -> Iterator[None]:
    # The kernel frees the lock when its holder ends, however it ends.
    with (repo_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FeaturesError(
                f"expected to be alone in writing {repo_dir}; another process is materialising there, wait for its end"
            ) from None
        yield


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _fill(version: Path, *, columns: StateColumns, until_at_ms: int | None, tags: dict[str, str]) -> int:
    """Write a version's repository and online store; returns how many queries it has."""
    index = pq.read_table(version / STATES, columns=[QUERY_ID, EVENT_TIMESTAMP])
    at_us = index[EVENT_TIMESTAMP].cast(pa.int64())
    # A state's time is its event's millisecond and less than 1,000 microseconds.
    until_us = pc.max(at_us).as_py() if until_at_ms is None else (until_at_ms + 1) * MICROSECONDS - 1
    counted = index.filter(pc.less_equal(at_us, until_us)) if index.num_rows else index
    if not counted.num_rows:
        raise FeaturesError(
            f"expected states to materialise; none of the {index.num_rows} states is from before {until_at_ms} ms"
        )
    with quiet_feast(), own_duckdb():
        store = create_repository(version, states=version / STATES, columns=columns, tags=tags)
        store.materialize(
            start_date=EPOCH + timedelta(microseconds=pc.min(at_us).as_py()),
            end_date=EPOCH + timedelta(microseconds=until_us),
        )
    return len(counted[QUERY_ID].unique())


def _point_to(repo_dir: Path, version: Path) -> None:
    """Make `version` the current one, and the current one the previous."""
    if (repo_dir / CURRENT).is_symlink():
        _link(repo_dir / PREVIOUS, target=Path(os.readlink(repo_dir / CURRENT)))
    _link(repo_dir / CURRENT, target=Path(VERSIONS) / version.name)


def _link(link: Path, *, target: Path) -> None:
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _remove_old(repo_dir: Path) -> None:
    """Remove every version that neither link names: older ones, and those that were never finished."""
    kept = {Path(os.readlink(link)).name for name in (CURRENT, PREVIOUS) if (link := repo_dir / name).is_symlink()}
    for version in (repo_dir / VERSIONS).iterdir():
        if version.name not in kept:
            shutil.rmtree(version)


def _current(repo_dir: Path) -> Path:
    try:
        return repo_dir / os.readlink(repo_dir / CURRENT)
    except OSError as error:
        raise FeaturesError(
            f"expected an online store at {repo_dir}; nothing was materialised there ({error.strerror}); run "
            "scripts/export_release.py"
        ) from error
