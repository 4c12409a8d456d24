"""Inverted lists: centroids divide the items, and a query reads the lists of its nearest centroids.

Owns the three types that differ in what a list keeps of an item. With `on_sphere` lists are chosen by Euclidean
distance to items on a sphere (norms.py), which knows of norms; without, by product with centroids of length 1, as Faiss
does by itself. Scores within a list are products either way.
"""

# Shapes: P items, D width of the embeddings, W width of the structure.

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.build import DECODED_AT_ONCE, checked
from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure
from towers.index.norms import norms, placed
from towers.index.part import Part
from towers.index.principal import principal_axes
from towers.index.search import ItemIndex

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Of Faiss's ways through lists (IndexIVFFastScan::implem) a tenth faster for one query than what it takes by itself.
ONE_QUERY_AT_A_TIME = 11
FEWEST_A_LIST = 39  # below which Faiss warns that centroids fit noise
MOST_A_LIST = 256  # of which Faiss learns centroids; more it draws from at random
MOST_SHOWN = 1_000_000  # to learn from, or MOST_A_LIST for each list: all at once would be copied
AT_ONCE = 1_000_000  # items that enter a structure, for they are copied onto the sphere


def build_lists(
    embeddings: FloatArray,
    rows: IntArray,
    *,
    structure_of: Callable[[faiss.Index, int, int], Any],
    lists: int,
    effort: Effort,
    on_sphere: bool,
    multiple: int = 1,
    principal_share: float = 1.0,
    rotated: bool = False,
    centroids_a_code: int = 16,
) -> ItemIndex:
    """An index of one part with inverted lists.

    Args:
        embeddings: [P, D].
        rows: [P].
        structure_of: from centroids' quantiser, W and number of lists to the structure, untrained.
        lists: fewer where they would have fewer than FEWEST_A_LIST items each.
        effort: of a search; with `refine` the embeddings are stored.
        on_sphere: whether lists are chosen by distance on the sphere.
        multiple: that W is made to be.
        principal_share: of the coordinates, that the structure has of an item along principal axes (principal.py); 1:
            coordinates as they are.
        rotated: whether principal axes are.
        centroids_a_code: of a codebook, which wants as many items to learn from.
    """
    embeddings, rows = checked(embeddings, rows)
    whole_width = embeddings.shape[1] + on_sphere
    width = whole_width if principal_share == 1 else ceil(principal_share * embeddings.shape[1])
    width += -width % multiple
    radius = max(float(norms(own).max()) for own in _chunks(embeddings)) if on_sphere else None
    most = max(MOST_SHOWN, MOST_A_LIST * lists)
    shown = embeddings[:: -(-len(embeddings) // most)]  # all, where there are no more
    axes = None
    if principal_share < 1:
        whole = placed(shown, radius=radius, width=max(width, whole_width))
        axes = principal_axes(whole, num=width, rotated=rotated)
    structure = structure_of(
        faiss.IndexFlatL2(width) if on_sphere else faiss.IndexFlatIP(width),
        width,
        max(1, min(lists, len(rows) // FEWEST_A_LIST)),
    )
    structure.cp.spherical = not on_sphere
    part = Part(
        rows=rows,
        structure=FaissStructure(structure),
        width=embeddings.shape[1],
        effort=effort,
        radius=radius,
        axes=axes,
        stored=None if effort.refine is None else embeddings,
    )
    # Fewer items than a codebook has entries are shown several times.
    structure.train(np.resize(part.placed(shown), (max(len(shown), centroids_a_code), width)))
    for own in _chunks(embeddings):
        structure.add(part.placed(own))
    return ItemIndex((part,))


def _chunks(embeddings: FloatArray) -> Iterator[FloatArray]:
    for at in range(0, len(embeddings), AT_ONCE):
        yield embeddings[at : at + AT_ONCE]


class _ListsBuilder(ABC):
    """What the builders below share: all but what a list keeps of an item."""

    multiple = 1  # that the structure's width is made to be
    principal_share = 1.0
    rotated = False

    def __init__(self, *, lists: int, effort: Effort, on_sphere: bool) -> None:
        self.lists = lists
        self.effort = effort
        self.on_sphere = on_sphere

    @abstractmethod
    def structure_of(self, quantiser: faiss.Index, width: int, lists: int) -> Any:
        """From centroids' quantiser, W and number of lists to the structure, untrained."""

    def build(self, embeddings: FloatArray, rows: IntArray) -> ItemIndex:
        """Build the index."""
        return build_lists(
            embeddings,
            rows,
            structure_of=self.structure_of,
            lists=self.lists,
            effort=self.effort,
            on_sphere=self.on_sphere,
            multiple=self.multiple,
            principal_share=self.principal_share,
            rotated=self.rotated,
        )


class IvfFlatBuilder(_ListsBuilder):
    """Lists of embeddings as they are: what is read is scored exactly.

    Args:
        lists: number of centroids.
        probes: lists read for each query; recall and latency grow with it.
        on_sphere: see this module.
    """

    def __init__(self, *, lists: int, probes: int, on_sphere: bool = True) -> None:
        super().__init__(lists=lists, effort=Effort(lists=probes), on_sphere=on_sphere)

    def structure_of(self, quantiser: faiss.Index, width: int, lists: int) -> Any:
        """See _ListsBuilder."""
        return faiss.IndexIVFFlat(quantiser, width, lists, faiss.METRIC_INNER_PRODUCT)


class IvfSq8Builder(_ListsBuilder):
    """Lists of one byte a coordinate.

    Args:
        lists: number of centroids.
        probes: lists read for each query.
        refine: candidates scored again by the embeddings, which are then stored beside the bytes, a multiple of k;
            None: bytes alone are kept, and scores are products with what they say.
        on_sphere: see this module.
    """

    multiple = DECODED_AT_ONCE

    def __init__(self, *, lists: int, probes: int, refine: float | None, on_sphere: bool = True) -> None:
        super().__init__(lists=lists, effort=Effort(lists=probes, refine=refine), on_sphere=on_sphere)

    def structure_of(self, quantiser: faiss.Index, width: int, lists: int) -> Any:
        """See _ListsBuilder."""
        bits = faiss.ScalarQuantizer.QT_8bit
        # Not of residuals: to their products Faiss adds the centroid's distance, which on the sphere is no product.
        return faiss.IndexIVFScalarQuantizer(quantiser, width, lists, bits, faiss.METRIC_INNER_PRODUCT, False)


class IvfFastScanBuilder(_ListsBuilder):
    """Lists of 4 bits for every few coordinates, scored within registers; then again by the embeddings, stored beside.

    Args:
        lists: number of centroids; 1: every code is read.
        probes: lists read for each query.
        coordinates_a_code: coordinates that share 4 bits.
        refine: candidates scored again, a multiple of k.
        on_sphere: see this module.
        of_residuals: whether codes say where an item stands from its list's centroid, more exactly than from 0; for
            lists that are chosen by product.
        principal_share: of the coordinates, in (0, 1], that lists and codes know of an item along principal axes
            (principal.py); 1: all, as they are.
        rotated: whether principal axes are, at random.

    Raises:
        UnfitPieces: there is no such share, or codes are to be of residuals on the sphere, or axes rotated that are
            not principal.

    Source: André et al., TPAMI 2021, "Quicker ADC".
    """

    def __init__(
        self,
        *,
        lists: int,
        probes: int,
        coordinates_a_code: int,
        refine: float,
        on_sphere: bool = True,
        of_residuals: bool = False,
        principal_share: float = 1.0,
        rotated: bool = False,
    ) -> None:
        super().__init__(lists=lists, effort=Effort(lists=probes, refine=refine), on_sphere=on_sphere)
        if not 0 < principal_share <= 1:
            raise UnfitPieces(f"expected a share of the coordinates in (0, 1]; got principal_share={principal_share}")
        if of_residuals and on_sphere:
            raise UnfitPieces("codes of residuals are for lists that are chosen by product; give on_sphere=false")
        if rotated and principal_share == 1:
            raise UnfitPieces("principal axes are rotated, and all coordinates are not; give principal_share below 1")
        self.multiple = coordinates_a_code
        self.of_residuals = of_residuals
        self.principal_share = principal_share
        self.rotated = rotated

    def structure_of(self, quantiser: faiss.Index, width: int, lists: int) -> Any:
        """See _ListsBuilder."""
        codes = width // self.multiple
        structure = faiss.IndexIVFPQFastScan(quantiser, width, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
        structure.by_residual = self.of_residuals
        structure.implem = ONE_QUERY_AT_A_TIME
        return structure
