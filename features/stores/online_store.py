"""Query states for serving: reads of the newest of each query, from Feast's online store.

Owns reads. Knows nothing of models or of HTTP; the directory is store_versions.py's, writing is materialize.py's.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from features.errors import FeaturesError, StoreUnavailable
from features.stores.feast_repository import QUERY_SERVICE, Repository, open_repository
from features.stores.state_rows import QUERY_ID, STATE_AT_MS, StateColumns, decode_states
from features.stores.store_versions import current_version
from features.transforms import QueryFeatures

logger = logging.getLogger(__name__)

# sqlite takes a bounded number of values in one statement.
QUERIES_A_READ = 5_000


class OnlineStore:
    """Reads of query states; threads may share one, their reads take turns.

    A read follows `materialize`: it opens the new version when `current` points to another one. What `materialize_new`
    wrote is seen by the next read.

    Attributes:
        columns: the attributes' names, in the order in which `read` returns them.
        spec_hash: of the FeatureSpec that the version was materialised for.
        version: name of the version.
        ttl_ms: a state older than this at the request is an unknown query's. Feast 0.67 does not look at a view's ttl
            when it reads (feast issue 6821).
    """

    columns: StateColumns
    spec_hash: str
    version: str
    ttl_ms: int | None

    def __init__(self, *, repo_dir: Path) -> None:
        self._repo_dir = repo_dir
        # Feast's sqlite store is one connection, and its registry cache one dictionary.
        self._lock = threading.Lock()
        self._open(current_version(repo_dir))
        try:
            # Feast imports at its first read what reads need; a request should not wait for that.
            self._rows([""])
        except StoreUnavailable as error:
            logger.warning("online store: %s", error)

    @classmethod
    def open(cls, repo_dir: Path) -> Self:
        """Open the current version; where its values lie, and for how long they count, stands in the directory.

        Args:
            repo_dir: as given to `materialize`.

        Raises:
            FeaturesError: nothing was materialised there.
        """
        return cls(repo_dir=repo_dir)

    def read(self, query_ids: Sequence[str], *, requested_at_ms: Sequence[int]) -> tuple[QueryFeatures, list[bool]]:
        """Features of N queries, and [N] whether each is known; an unknown one has an empty history, "" and nan.

        Raises:
            FeaturesError: the lengths differ.
            StoreUnavailable: the values cannot be read now.
        """
        if len(query_ids) != len(requested_at_ms):
            raise FeaturesError(f"expected an instant for each of {len(query_ids)} queries; got {len(requested_at_ms)}")
        with self._lock:
            rows = self._newest_rows(query_ids)
            columns, ttl_ms = self.columns, self.ttl_ms
        if ttl_ms is not None:
            for n, (state_at_ms, now_ms) in enumerate(zip(rows[STATE_AT_MS], requested_at_ms, strict=True)):
                if state_at_ms is not None and now_ms - state_at_ms > ttl_ms:
                    for name in columns.features:
                        rows[name][n] = None
        return decode_states(rows, columns=columns, requested_at_ms=requested_at_ms)

    def _newest_rows(self, query_ids: Sequence[str]) -> dict[str, list[Any]]:
        """Rows of the current version, which may change while they are read; then they are read again."""
        while True:
            newest = current_version(self._repo_dir)
            if newest.name != self.version:
                self._open(newest)
            rows = self._rows(query_ids)
            if current_version(self._repo_dir).name == self.version:
                return rows

    def _rows(self, query_ids: Sequence[str]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name in self.columns.features}
        for start in range(0, len(query_ids), QUERIES_A_READ):
            asked = {QUERY_ID: list(query_ids[start : start + QUERIES_A_READ])}
            with self._repository.answering():
                response = self._repository.store.get_online_features(features=self._features, entity_rows=asked)
            answer = response.to_dict()
            for name, values in rows.items():
                values.extend(answer[name])
        return rows

    def _open(self, version: Path) -> None:
        repository: Repository = open_repository(version)
        self._repository, self._features = repository, repository.store.get_feature_service(QUERY_SERVICE)
        self.columns, self.spec_hash, self.ttl_ms = repository.columns, repository.spec_hash, repository.ttl_ms
        self.version = version.name
        logger.info("online store: version %s for feature spec %s", self.version, self.spec_hash)
