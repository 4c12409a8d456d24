"""Made-up embeddings: items in clusters, with norms of a heavy tail, and queries of the same clusters.

Owns the drawing. Clusters lie in a space of fewer dimensions than the embeddings have, as towers' embeddings do.
"""

# Shapes: N items or queries, D width of the embeddings.

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

NUM_CLUSTERS, INNER_WIDTH = 2000, 24
IN_A_CHUNK = 100_000


@dataclass(frozen=True, eq=False)
class Drawn:
    """Some embeddings.

    Attributes:
        embeddings: [N, D].
        clusters: [N] that each lies in, from 0 to NUM_CLUSTERS - 1.
    """

    embeddings: FloatArray
    clusters: IntArray


class Clouds:
    """The clusters; every draw is another one.

    Args:
        width: D.
        generator: of the clusters and of all draws.
    """

    def __init__(self, *, width: int, generator: np.random.Generator) -> None:
        self.width = width
        self._generator = generator
        inner = min(INNER_WIDTH, width)
        self._basis = generator.normal(size=(inner, width)) / np.sqrt(inner)
        self._centres = generator.normal(size=(NUM_CLUSTERS, inner))

    def queries(self, num: int) -> Drawn:
        """Of length 1."""
        return self._drawn(num, np.ones(1))

    def items(self, num: int, *, tail: float) -> Drawn:
        """With log-normal norms, `tail` the deviation of their logarithm; 0: of length 1."""
        embeddings, clusters, at = np.empty((num, self.width), np.float32), np.empty(num, np.int64), 0
        for own in self.chunks(num, tail=tail):
            to = slice(at, at + len(own.clusters))
            embeddings[to], clusters[to], at = own.embeddings, own.clusters, to.stop
        return Drawn(embeddings, clusters)

    def chunks(self, num: int, *, tail: float) -> Iterator[Drawn]:
        """What `items` draws, by at most IN_A_CHUNK, where all would take too much memory."""
        norms = np.exp(tail * self._generator.normal(size=(num, 1)))
        for at in range(0, num, IN_A_CHUNK):
            own = norms[at : at + IN_A_CHUNK]
            yield self._drawn(len(own), own)

    def _drawn(self, num: int, norms: NDArray[np.float64]) -> Drawn:
        generator, inner = self._generator, len(self._basis)
        clusters = generator.integers(0, NUM_CLUSTERS, num)
        places = self._centres[clusters] + 0.6 * generator.normal(size=(num, inner))
        drawn = places @ self._basis + 0.15 * generator.normal(size=(num, self.width))
        lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
        return Drawn((drawn / lengths * norms).astype(np.float32), clusters)
