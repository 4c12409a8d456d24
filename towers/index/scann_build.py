"""An index that is searched by ScaNN (scann_structure.py)."""

import numpy as np
from numpy.typing import NDArray

from towers.index.build import checked
from towers.index.effort import Effort
from towers.index.lists import FEWEST_A_LIST
from towers.index.norms import norms
from towers.index.part import Part
from towers.index.scann_structure import ScannSettings, ScannStructure
from towers.index.search import ItemIndex

# Codes are fitted to products that are at least this share of what a query along the item has: of the paper.
THRESHOLD = 0.2


class ScannBuilder:
    """Leaves of 4 bits for every few coordinates, fitted to products; then again by the embeddings, stored beside.

    Args:
        lists: leaves of the tree; fewer where they would have fewer than FEWEST_A_LIST items each.
        probes: leaves read for each query.
        coordinates_a_code: coordinates that share 4 bits.
        refine: candidates scored again, a multiple of k.
    """

    def __init__(self, *, lists: int, probes: int, coordinates_a_code: int, refine: float) -> None:
        self.lists = lists
        self.coordinates_a_code = coordinates_a_code
        self.effort = Effort(lists=probes, refine=refine)

    def build(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> ItemIndex:
        """Build the index.

        Raises:
            ScannMissing: ScaNN is not installed.
        """
        embeddings, rows = checked(embeddings, rows)
        settings = ScannSettings(
            width=embeddings.shape[1],
            leaves=max(1, min(self.lists, len(rows) // FEWEST_A_LIST)),
            coordinates_a_code=self.coordinates_a_code,
            threshold=THRESHOLD * float(np.median(norms(embeddings))),
        )
        structure = ScannStructure.learned(embeddings, settings)
        part = Part(rows=rows, structure=structure, width=settings.width, effort=self.effort, stored=embeddings)
        return ItemIndex((part,))
