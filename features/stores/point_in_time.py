"""Feast's point-in-time join: what stood in files of features as of each request.

Owns portions and the order of rows. Which instant a request sees is its caller's business (offline_store.py).
"""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.spec import FeatureSpec
from features.stores.feast_process import own_duckdb, quiet_feast
from features.stores.feast_repository import QUERY_STATE, Sources, create_repository
from features.stores.online_settings import OnlineSettings
from features.stores.state_rows import QUERY_ID
from features.vocab import ITEM_ID

REQUEST = "request"
# Feast joins every request with every row of its entity before it picks one, so requests go in portions.
PAIRS_A_JOIN = 500_000


def point_in_time_join(
    requests: pd.DataFrame,
    *,
    features: str | list[str],
    spec: FeatureSpec,
    sources: Sources,
    ttl: timedelta | None = None,
) -> pa.Table:
    """Features as of each request.

    Args:
        requests: the entities' ids and EVENT_TIMESTAMP, the newest instant that a request sees, that instant included.
        features: a service of feast_repository.SERVICES, or `view:feature` of each.
        spec: of the files.
        sources: the files of those views.
        ttl: of a query's state.

    Returns:
        One row a request, in the order of the requests, with a column `view__feature` for each feature; null where
        nothing was known by then.
    """
    numbered = requests.assign(**{REQUEST: np.arange(len(requests))})
    settings = OnlineSettings(ttl_days=None if ttl is None else ttl / timedelta(days=1))
    with tempfile.TemporaryDirectory() as directory, quiet_feast(), own_duckdb():
        store = create_repository(Path(directory), spec=spec, sources=sources, online=settings).store
        wanted = store.get_feature_service(features) if isinstance(features, str) else features
        joined = [
            # Without the filter a row appended later is seen by requests before it was known (feast issue 6615).
            store.get_historical_features(
                entity_df=portion, features=wanted, full_feature_names=True, filter_by_created_timestamp=True
            )
            .to_arrow()
            .sort_by(REQUEST)
            for portion in _portions(numbered, sources)
        ]
    return pa.concat_tables(joined)


def _portions(requests: pd.DataFrame, sources: Sources) -> Iterator[pd.DataFrame]:
    """The requests, in their order, in portions of about PAIRS_A_JOIN pairs of a request and a row of its entity."""
    pairs: NDArray[np.int64] = np.ones(len(requests), dtype=np.int64)
    for view, path in sources.by_view.items():
        key = QUERY_ID if view == QUERY_STATE else ITEM_ID
        counts = pq.read_table(path, columns=[key])[key].value_counts()
        num_rows = pd.Series(counts.field("counts").to_numpy(), index=counts.field("values").to_pylist())
        pairs += requests[key].map(num_rows).fillna(0).to_numpy(dtype=np.int64)
    for _, portion in requests.groupby(np.cumsum(pairs) // PAIRS_A_JOIN):
        yield portion
