"""Item embeddings in closed form: the best linear model of given width from what a query had to what it has next.

Owns the solution. With X the interactions, ridge regression of X on itself smooths a history by S = X^T (X X^T +
lambda I)^-1 X, the kernel that EASE's weights are made of. S is symmetric and positive, so its best approximation of
rank D is an inner product: a query is the sum of the embeddings of what it had (bags.py), and no gradient is needed.
It stands beside the learned tower in blend.py: order is that one's strength, what goes together this one's.

scipy: used at fit, never while serving.

Sources: Steck, WWW 2019, "Embarrassingly shallow autoencoders for sparse data"; Cremonesi et al., RecSys 2010,
"Performance of recommender algorithms on top-n recommendation tasks" (PureSVD).
"""

# Shapes: Q queries with events, V rows of the item table, M items with events, D width.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, svds

from towers.retrievers.interactions import interaction_matrix

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]

# Queries or items up to which all singular vectors are found. The iteration finds fewer than there are, and once it has
# spanned the whole space it goes on from random vectors: the same log would give other signs.
DENSE = 200


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Right singular vectors of the interactions, from which embeddings of any regularisation are a product away.

    Attributes:
        vectors: [V, D] orthonormal columns; zero for an item without events.
        singular_values: [D] descending; 0 where the data have fewer dimensions.
    """

    vectors: FloatArray
    singular_values: FloatArray

    def embeddings(self, regularisation: float) -> FloatArray:
        """[V, D] whose inner products are S, for lambda above 0."""
        if regularisation <= 0:
            raise ValueError(f"regularisation must be above 0; got {regularisation}")
        energy = np.square(self.singular_values, dtype=np.float32)
        result: FloatArray = self.vectors * np.sqrt(energy / (energy + np.float32(regularisation)))
        return result


def fit_linear(*, query_rows: IntArray, item_rows: IntArray, num_rows: int, width: int) -> LinearFit:
    """Decompose the interactions.

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; padding and unknown are left out, order does not matter.
        num_rows: V.
        width: D.

    Raises:
        ValueError: width is below 0.
    """
    if width < 0:
        raise ValueError(f"width must be at least 0; got {width}")
    matrix = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    counts: NDArray[np.float64] = matrix.sum(axis=0)
    seen = np.flatnonzero(counts)  # [M]
    known = matrix[:, seen]
    smaller = min(known.shape)
    values: NDArray[np.floating[Any]]
    if smaller == 0 or width == 0:
        values, right = np.zeros(0), np.zeros((0, len(seen)))
    elif smaller <= max(2 * width, DENSE):
        _, values, right = np.linalg.svd(known.toarray(), full_matrices=False)
    else:
        # With a start of its own, or the last bits of the result would be another run's.
        try:
            _, values, right = svds(known, k=width, v0=np.ones(smaller), rng=np.random.default_rng(0))
        except ArpackError:  # where all have alike many events, ones are an answer, and nothing leads on from there
            start = np.random.default_rng(0).normal(size=smaller)
            _, values, right = svds(known, k=width, v0=start, rng=np.random.default_rng(0))
    order = np.argsort(-values)[:width]
    vectors = np.zeros((num_rows, width), dtype=np.float32)
    vectors[seen, : len(order)] = right[order].T
    singular_values = np.zeros(width, dtype=np.float32)
    singular_values[: len(order)] = values[order]
    return LinearFit(vectors=vectors, singular_values=singular_values)
