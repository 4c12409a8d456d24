"""The heaviest items apart: an exact part of them beside another index of the rest.

Owns the division. A few items of great norm lead most lists, stretch the sphere that the others lie on (norms.py) and
draw a graph's links to themselves; scanning them costs as much as their share of exact search.
"""

import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.build import FlatBuilder, IndexBuilder, checked
from towers.index.norms import heaviest
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
