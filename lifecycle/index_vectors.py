"""Items and queries that indexes are measured on: made up in clusters, and factors of what was really purchased.

Owns how they come about. Nothing is normalised or padded for an index's sake.
"""

# Shapes: P items, Q queries, D width.

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from features.errors import SourceMissing
from lifecycle.made_up_embeddings import Clouds

FloatArray = NDArray[np.float32]


class Vectors(Protocol):
    """Where items and queries come from; the same at each call."""

    def draw(self, num_queries: int) -> tuple[FloatArray, FloatArray]:
        """Items [P, D] and queries [Q, D], Q at most num_queries."""


@dataclass(frozen=True)
class Clusters:
    """Items in clusters, and queries of norm 1 of the same clusters (made_up_embeddings.py).

    Attributes:
        num_items: P.
        width: D.
        tail: deviation of the logarithm of the items' norms; 0: all are 1.
        seed: of all that is drawn.
    """

    num_items: int
    width: int
    tail: float
    seed: int

    def draw(self, num_queries: int) -> tuple[FloatArray, FloatArray]:
        """See Vectors."""
        clouds = Clouds(width=self.width, generator=np.random.default_rng(self.seed))
        return clouds.items(self.num_items, tail=self.tail).embeddings, clouds.queries(num_queries).embeddings


@dataclass(frozen=True)
class PurchaseFactors:
    """Factors of every purchased item and of those who purchased, by singular values of log(1 + purchases).

    Attributes:
        events: events.parquet of scripts/prepare_data.py.
        width: D.
        seed: of the queries' order.
    """

    events: Path | str
    width: int
    seed: int

    def draw(self, num_queries: int) -> tuple[FloatArray, FloatArray]:
        """See Vectors.

        Raises:
            SourceMissing: there is no such file.
        """
        if not Path(self.events).is_file():
            raise SourceMissing(
                f"{self.events} is not there: make it by scripts/prepare_data.py dataset=groceries data_dir=..., "
                "or leave these vectors out"
            )
        table = pd.read_parquet(self.events, columns=["query_id", "item_id"])
        rows, columns = (pd.factorize(table[name], sort=True)[0] for name in ("query_id", "item_id"))
        counts = csr_array((np.ones(len(table)), (rows, columns)))
        counts.sum_duplicates()
        counts.data = np.log1p(counts.data)
        left, values, right = svds(counts, k=self.width, v0=np.ones(min(counts.shape)))
        order = np.random.default_rng(self.seed).permutation(len(left))[:num_queries]
        halves = np.sqrt(values)
        items: FloatArray = np.ascontiguousarray(right.T * halves, dtype=np.float32)
        return items, (left[order] * halves).astype(np.float32)
