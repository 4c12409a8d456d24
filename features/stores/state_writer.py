"""Newer states into the current version of the online store, through Feast's `write_to_online_store`.

Owns which states are newer, and how many are written at a time. A whole version is materialize.py's, which goes through
Feast's offline store: for a few hundred queries that is many times slower than writing them (docs/decisions/0008).

A reader sees each query's old state or its new one, whole, and sees it as soon as it is written. A process that is
killed in the middle leaves some queries with their old state; writing the same states again writes those.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import SchemaMismatch
from features.stores.feast_process import quiet_feast
from features.stores.feast_repository import QUERY_STATE, Repository, open_repository
from features.stores.feature_files import read_spec
from features.stores.state_rows import POSITION, QUERY_ID, STATE_AT_MS
from features.stores.store_versions import current_version, one_writer

# A transaction of sqlite's that is larger than its cache keeps readers waiting until it ends.
QUERIES_A_WRITE = 500
QUERIES_A_READ = 5_000
NEVER = (-(2**63), 0)


@dataclass(frozen=True)
class Added:
    """What came to the current version, and how many states were no newer than what it had."""

    version: str
    num_written: int
    num_older: int


class StateWriter:
    """Adds newer states to the current version, batch by batch.

    It is alone in writing the store, so what it once read or wrote of a query it need not read again.

    Attributes:
        version: that it writes to.
        spec_hash: of the FeatureSpec that states must be for.
    """

    def __init__(self, *, repository: Repository, version: str) -> None:
        self.version = version
        self.spec_hash = repository.spec_hash
        self._repository = repository
        self._newest: dict[str, tuple[int, int]] = {}

    @classmethod
    @contextmanager
    def open(cls, repo_dir: Path) -> Iterator["StateWriter"]:
        """Write to the current version as long as the block runs.

        Args:
            repo_dir: as given to `materialize`.

        Raises:
            FeaturesError: nothing was materialised there, or another process writes in this directory.
        """
        current_version(repo_dir)
        with one_writer(repo_dir):
            version = current_version(repo_dir)
            yield cls(repository=open_repository(version), version=version.name)

    def write(self, states: pa.RecordBatch) -> int:
        """Write those of the states that are newer than their query's, by instant and position; returns how many.

        Args:
            states: rows with `StateColumns.schema`, for instance `QueryStates.rows`; of several states of a query the
                newest counts.

        Raises:
            SchemaMismatch: the rows are not those of this store.
            StoreUnavailable: the store does not answer; some of the queries may have their new state.
        """
        schema = self._repository.columns.schema
        if not states.schema.equals(schema):
            raise SchemaMismatch(
                f"expected states with the columns {', '.join(schema.names)}; got {', '.join(states.schema.names)}"
            )
        ages = list(zip(states[STATE_AT_MS].to_pylist(), states[POSITION].to_pylist(), strict=True))
        newest_row: dict[str, int] = {}
        for row, query_id in enumerate(states[QUERY_ID].to_pylist()):
            if query_id not in newest_row or ages[newest_row[query_id]] < ages[row]:
                newest_row[query_id] = row
        self._look_up([query_id for query_id in newest_row if query_id not in self._newest])
        newer = [(query_id, row) for query_id, row in newest_row.items() if self._newest[query_id] < ages[row]]
        for start in range(0, len(newer), QUERIES_A_WRITE):
            portion = newer[start : start + QUERIES_A_WRITE]
            frame = states.take(pa.array([row for _, row in portion])).to_pandas()
            with quiet_feast(), self._repository.answering():
                self._repository.store.write_to_online_store(QUERY_STATE, df=frame)
            self._newest.update({query_id: ages[row] for query_id, row in portion})
        return len(newer)

    def _look_up(self, query_ids: Sequence[str]) -> None:
        features = [f"{QUERY_STATE}:{name}" for name in (STATE_AT_MS, POSITION)]
        for start in range(0, len(query_ids), QUERIES_A_READ):
            asked = list(query_ids[start : start + QUERIES_A_READ])
            with self._repository.answering():
                answer = self._repository.store.get_online_features(features=features, entity_rows={QUERY_ID: asked})
            found = answer.to_dict()
            for query_id, at_ms, position in zip(asked, found[STATE_AT_MS], found[POSITION], strict=True):
                self._newest[query_id] = NEVER if at_ms is None else (at_ms, position)


def materialize_new(repo_dir: Path, *, states: Path) -> Added:
    """Write the states of a file that are newer than their query's in the current version; all others stay.

    Args:
        repo_dir: as given to `materialize`.
        states: written by `offline_store.write_query_states` for the FeatureSpec of the current version.

    Raises:
        FeaturesError: nothing was materialised there, or another process writes in this directory.
        SchemaMismatch: the file is no table of states, or for another FeatureSpec.
        StoreUnavailable: the store does not answer; some of the queries may have their new state.
    """
    spec = read_spec(states)
    with StateWriter.open(repo_dir) as writer:
        if spec.hash != writer.spec_hash:
            raise SchemaMismatch(
                f"expected states for the feature spec {writer.spec_hash} of {repo_dir}; {states} is for {spec.hash}; "
                "export the release of that spec again: scripts/export_release.py"
            )
        file = pq.ParquetFile(states)
        num_written = sum(
            writer.write(batch.replace_schema_metadata()) for batch in file.iter_batches(batch_size=QUERIES_A_WRITE)
        )
        return Added(version=writer.version, num_written=num_written, num_older=file.metadata.num_rows - num_written)
