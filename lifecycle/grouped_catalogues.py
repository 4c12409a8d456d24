"""Catalogues whose items have groups, such as categories: made up, or of a prepared dataset.

Owns the embeddings and the groups of some share that filters let pass.
"""

# Shapes: P items, Q queries, D width of the embeddings.

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from lifecycle.made_up_embeddings import Clouds

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grouped:
    """A catalogue.

    Attributes:
        items: [P, D].
        queries: [Q, D].
        group: from a share to whether each item is in a group of about that share [P], and what the group is called.
    """

    items: FloatArray
    queries: FloatArray
    group: Callable[[float], tuple[Mask, str]]


def made_up(num_items: int, *, num_queries: int, width: int, tail: float, seed: int) -> Grouped:
    """Clusters; a group is one of them with those that lie nearest, until they have the share."""
    clouds = Clouds(width=width, generator=np.random.default_rng(seed))
    drawn, queries = clouds.items(num_items, tail=tail), clouds.queries(num_queries).embeddings
    sizes = np.bincount(drawn.clusters)
    order = np.argsort(drawn.clusters, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])[:-1]])
    means = np.add.reduceat(drawn.embeddings[order], starts) / sizes[sizes > 0, None]
    nearest = np.flatnonzero(sizes)[np.argsort(-(means @ means[0]), kind="stable")]

    def group(share: float) -> tuple[Mask, str]:
        chosen = nearest[: 1 + int(np.searchsorted(np.cumsum(sizes[nearest]), share * num_items))]
        return np.isin(drawn.clusters, chosen), f"{len(chosen)} clusters"

    return Grouped(drawn.embeddings, queries, group)


def factorised(directory: Path, *, num_queries: int, width: int, seed: int) -> Grouped:
    """Factors of a prepared dataset's log; a group is a value of a category column, the one whose share is nearest.

    Args:
        directory: of the tables of events and items.
        num_queries: drawn from all.
        width: of the singular value decomposition of the logarithm of counts.
        seed: of what is drawn.
    """
    events = pq.read_table(directory / "events.parquet", columns=["query_id", "item_id"]).to_pandas()
    query, item = (events[name].astype("category").cat for name in ("query_id", "item_id"))
    counts = csr_matrix((np.ones(len(events), np.float32), (query.codes, item.codes)))
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    factors: Any = svds(counts, k=width, random_state=seed)
    left, values, right = factors
    chosen = np.random.default_rng(seed).permutation(len(left))[:num_queries]
    table = pq.read_table(directory / "items.parquet").to_pandas().set_index("item_id").loc[item.categories]
    named = table.select_dtypes(include=["object", "string"])
    shares = {
        (column, value): share
        for column in named
        for value, share in named[column].value_counts(normalize=True).items()
    }

    def group(share: float) -> tuple[Mask, str]:
        column, value = min(shares, key=lambda own: abs(np.log(shares[own] / share)))
        return (named[column] == value).to_numpy(np.bool_), f"{column} {value}"

    items, queries = right.T * np.sqrt(values), left[chosen] * np.sqrt(values)
    return Grouped(np.ascontiguousarray(items, np.float32), np.ascontiguousarray(queries, np.float32), group)
