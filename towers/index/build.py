"""Building an index over item embeddings. numpy and faiss only.

Owns what every builder checks, and the two plainest: exact search, and a graph. conf/index/*.yaml chooses one;
inverted lists are in lists.py, what may be put around a builder in band.py and gpu_build.py.
"""

from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure, overwrite
from towers.index.norms import LARGEST, is_bounded, normalised, padded
from towers.index.part import Part
from towers.index.search import ItemIndex

LARGEST_HALF = 65504.0
DECODED_AT_ONCE = 8  # coordinates that Faiss decodes of a scalar quantiser; with any left over it is ten times as slow


class IndexBuilder(Protocol):
    """Makes an index from embeddings [N, D] and the ItemRow of each [N]."""

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""


def checked(embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same as Faiss wants them.

    Raises:
        ValueError: shapes do not fit, an embedding is no number or beyond LARGEST, or a row stands twice.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(rows) or len(rows) == 0:
        raise ValueError(
            f"expected embeddings [N, D] and as many rows, N >= 1; got {embeddings.shape} and {rows.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("item embeddings hold NaN or infinity; the towers did not train: see the loss curve")
    if not is_bounded(embeddings):
        raise ValueError(f"item embeddings go beyond {LARGEST:g}, where products overflow; check what embeds them")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("an item stands in the index twice: rows must be distinct")
    return np.ascontiguousarray(embeddings, dtype=np.float32), np.array(rows, dtype=np.int64)


class FlatBuilder:
    """Exact search by inner product: every query reads every embedding, 4 bytes a coordinate.

    Args:
        half: embeddings are kept in half precision, 2 bytes a coordinate, and scores are products with these: off by
            2^-11 of the sum of the products' magnitudes at most.
    """

    def __init__(self, *, half: bool = False) -> None:
        self.half = half

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        embeddings, rows = checked(embeddings, rows)
        width = embeddings.shape[1]
        structure: faiss.Index = faiss.IndexFlatIP(width)
        if self.half:
            largest = float(np.abs(embeddings).max(initial=0.0))
            if largest > LARGEST_HALF:
                raise UnfitPieces(f"half precision ends at {LARGEST_HALF:.0f}; got {largest:.6g}: choose index=flat")
            structure = faiss.IndexScalarQuantizer(
                width + -width % DECODED_AT_ONCE, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
        structure.add(padded(embeddings, width=structure.d))
        return ItemIndex((Part(rows=rows, structure=FaissStructure(structure), width=width),))


class HnswBuilder:
    """Approximate search by a graph; memory = embeddings + links * 8 bytes an item.

    Args:
        links: graph degree.
        build_beam: candidates examined for each item while building.
        search_beam: candidates examined for each query; recall and latency grow with it.
        normalised: links are made by angle rather than by product; searches go by product either way.
    """

    def __init__(self, *, links: int, build_beam: int, search_beam: int, normalised: bool = False) -> None:
        self.links = links
        self.build_beam = build_beam
        self.effort = Effort(beam=search_beam)
        self.normalised = normalised

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        embeddings, rows = checked(embeddings, rows)
        width = embeddings.shape[1]
        graph = faiss.IndexHNSWFlat(width, self.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.build_beam
        graph.add(normalised(embeddings) if self.normalised else embeddings)
        overwrite(faiss.downcast_index(graph.storage), embeddings)
        return ItemIndex((Part(rows=rows, structure=FaissStructure(graph), width=width, effort=self.effort),))
