"""Indexes that are searched on an NVIDIA GPU.

Owns the two types that only a GPU has, and moving others there. A part is written as it is on a CPU and moves when it
is read. On a GPU a search brings at most 2,048 candidates, k times `refine`.
"""

# Shapes: P items, D width of the embeddings, W width of the structure.

from dataclasses import replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.build import IndexBuilder, checked
from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure
from towers.index.gpu import gpu_resources
from towers.index.lists import build_lists
from towers.index.norms import norms, on_sphere
from towers.index.part import Part
from towers.index.search import ItemIndex
from towers.index.structure import Structure

FAISS: Any = faiss  # its stubs know no GPU
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Bytes a code that Faiss has kernels for.
CODE_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)


class OnGpu:
    """Builds on the CPU and moves the result: flat indexes and inverted lists, but for fast scans, can be.

    Args:
        builder: of the index.
    """

    def __init__(self, *, builder: IndexBuilder) -> None:
        self.builder = builder

    def build(self, embeddings: FloatArray, rows: IntArray) -> ItemIndex:
        """Build the index.

        Raises:
            GpuMissing: there is none, or this Faiss cannot use it.
            UnfitPieces: the builder uses another library.
        """
        gpu_resources()
        index = self.builder.build(embeddings, rows)
        return ItemIndex(tuple(replace(part, structure=_moved(part.structure)) for part in index.parts))


def _moved(structure: Structure) -> FaissStructure:
    if not isinstance(structure, FaissStructure):
        raise UnfitPieces("what is searched on a GPU is Faiss's; got another library's index: leave OnGpu out")
    return replace(structure, on_gpu=True)


class IvfPqBuilder:
    """Lists of a byte for every few coordinates; what they find is scored again by the embeddings, stored beside them.

    What a GPU has in the place of 4-bit fast scans; on a CPU it works and is slower than these.

    Args:
        lists: number of centroids.
        probes: lists read for each query.
        coordinates_a_code: coordinates that share a byte, 4 or 8 say.
        refine: candidates scored again, a multiple of k.
    """

    def __init__(self, *, lists: int, probes: int, coordinates_a_code: int, refine: float) -> None:
        self.lists = lists
        self.coordinates_a_code = coordinates_a_code
        self.effort = Effort(lists=probes, refine=refine)

    def build(self, embeddings: FloatArray, rows: IntArray) -> ItemIndex:
        """Build the index.

        Raises:
            UnfitPieces: embeddings are so wide that no code is long enough.
        """
        wanted = -(-(embeddings.shape[-1] + 1) // self.coordinates_a_code)
        num = next((num for num in CODE_BYTES if num >= wanted), None)
        if num is None:
            raise UnfitPieces(
                f"embeddings of width {embeddings.shape[-1]} at {self.coordinates_a_code} coordinates a code need "
                f"{wanted} bytes, and a GPU has {CODE_BYTES[-1]} at most: raise coordinates_a_code"
            )

        def structure_of(quantiser: faiss.Index, width: int, lists: int) -> Any:
            return faiss.IndexIVFPQ(quantiser, width, lists, num, 8, faiss.METRIC_L2)

        return build_lists(
            embeddings,
            rows,
            structure_of=structure_of,
            lists=self.lists,
            effort=self.effort,
            on_sphere=True,
            multiple=num * self.coordinates_a_code,
            centroids_a_code=256,
        )


class CagraBuilder:
    """NVIDIA's graph of items on a sphere, built and searched there; scored again by the embeddings, stored beside.

    Args:
        links: graph degree; while it is built, twice as many.
        search_beam: candidates kept for each query, at least k.
    """

    def __init__(self, *, links: int, search_beam: int) -> None:
        self.links = links
        self.effort = Effort(beam=search_beam, refine=1)

    def build(self, embeddings: FloatArray, rows: IntArray) -> ItemIndex:
        """Build the index.

        Raises:
            GpuMissing: there is none, or this Faiss has no CAGRA.
        """
        embeddings, rows = checked(embeddings, rows)
        resources = gpu_resources(needs="GpuIndexCagra")
        width, radius = embeddings.shape[1], float(norms(embeddings).max())
        config = FAISS.GpuIndexCagraConfig()
        config.graph_degree, config.intermediate_graph_degree = self.links, 2 * self.links
        built = FAISS.GpuIndexCagra(resources, width + 1, faiss.METRIC_L2, config)
        built.train(on_sphere(embeddings, radius=radius, width=width + 1))
        structure = FAISS.IndexHNSWCagra()
        built.copyTo(structure)
        part = Part(
            rows=rows,
            structure=FaissStructure(structure, on_gpu=True),
            width=width,
            effort=self.effort,
            radius=radius,
            stored=embeddings,
        )
        return ItemIndex((part,))
