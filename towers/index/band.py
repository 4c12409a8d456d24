"""The heaviest items: an exact part of them beside another index of the rest, or they alone.

Owns the division. A few items of great norm lead most lists, stretch the sphere that the others lie on (norms.py) and
draw a graph's links to themselves; scanning them costs as much as their share of exact search.
"""

import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.build import FlatBuilder, IndexBuilder, checked
from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure
from towers.index.norms import heaviest, norms
from towers.index.part import Part
from towers.index.search import ItemIndex


class HeaviestApart:
    """Puts an exact part of the heaviest items beside what another builder makes of the rest.

    Args:
        share: of the items, in (0, 1).
        builder: of the rest.
    """

    def __init__(self, *, share: float, builder: IndexBuilder) -> None:
        if not 0 < share < 1:
            raise UnfitPieces(f"expected a share of the items between 0 and 1; got {share}: leave HeaviestApart out")
        self.share = share
        self.builder = builder

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        embeddings, rows = checked(embeddings, rows)
        apart = heaviest(embeddings, share=self.share)
        heavy = FlatBuilder().build(embeddings[apart], rows[apart])
        if apart.all():
            return heavy
        rest = self.builder.build(embeddings[~apart], rows[~apart])
        return ItemIndex((*rest.parts, *heavy.parts))


class HeaviestFirst:
    """Scores the heaviest items exactly, and no others, for where norms differ much the largest products are theirs.

    Under a filter it is the heaviest that pass, more of them as fewer do, and all where half or less does. So a
    light item is found when it is asked for among few, and else hardly.

    Args:
        scanned: items that are scored for each query; recall and latency grow with it.

    Source: Teflioudi et al., SIGMOD 2015, "LEMP: Fast retrieval of large entries in a matrix product"; there norms
    bound products, here a tuner says how many items are enough.
    """

    def __init__(self, *, scanned: int) -> None:
        self.effort = Effort(scanned=scanned)

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index."""
        embeddings, rows = checked(embeddings, rows)
        order = np.argsort(-norms(embeddings), kind="stable")
        structure = FaissStructure.flat(embeddings[order])
        return ItemIndex((Part(rows=rows[order], structure=structure, width=embeddings.shape[1], effort=self.effort),))
