"""Building an index over item embeddings. numpy and faiss only.

Owns which Faiss structure holds the embeddings; conf/index/*.yaml chooses it.
"""

from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.search import ItemIndex


class IndexBuilder(Protocol):
    """Makes an index from embeddings [N, D] and the ItemRow of each [N]."""

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""


def _checked(embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    if embeddings.ndim != 2 or len(embeddings) != len(rows) or len(rows) == 0:
        raise ValueError(
            f"expected embeddings [N, D] and as many rows, N >= 1; got {embeddings.shape} and {rows.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("item embeddings hold NaN or infinity; the towers did not train: see the loss curve")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("an item stands in the index twice: rows must be distinct")
    return np.ascontiguousarray(embeddings, dtype=np.float32)


class FlatBuilder:
    """Exact search by inner product: every query reads every embedding, 4 bytes a coordinate."""

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        checked = _checked(embeddings, rows)
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(checked.shape[1]))
        index.add_with_ids(checked, rows)
        return ItemIndex(index)


class HnswBuilder:
    """Approximate search by a graph; memory = embeddings + links * 8 bytes an item.

    Args:
        links: graph degree.
        build_beam: candidates examined for each item while building.
        search_beam: candidates examined for each query; recall and latency grow with it.
    """

    def __init__(self, *, links: int, build_beam: int, search_beam: int) -> None:
        self.links = links
        self.build_beam = build_beam
        self.search_beam = search_beam

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        checked = _checked(embeddings, rows)
        graph = faiss.IndexHNSWFlat(checked.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.build_beam
        graph.hnsw.efSearch = self.search_beam
        index = faiss.IndexIDMap2(graph)
        index.add_with_ids(checked, rows)
        return ItemIndex(index)
