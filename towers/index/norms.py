"""What unequal norms need: inner product as distance, inner product as angle, and the heaviest apart.

Faiss's inverted lists and graphs presume that near vectors have large products, which holds only for equal norms. With
one more coordinate, sqrt(radius^2 - |x|^2), all items lie on a sphere; a query's is 0, so products stay what they were,
and the nearest item by Euclidean distance is the one with the largest product.

Source: Bachrach et al., RecSys 2014, "Speeding up the Xbox recommender system using a Euclidean transformation".
"""

# Shapes: P items, D width of the embeddings, W width in the structure, at least D + 1.

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


# Of a coordinate: with greater ones sums of squares overflow, and Faiss ends the process as it learns centroids.
LARGEST = 1e18


def is_bounded(embeddings: FloatArray) -> bool:
    """Whether no coordinate of finite embeddings is beyond LARGEST."""
    return embeddings.size == 0 or bool(max(embeddings.max(), -embeddings.min()) <= LARGEST)


def norms(embeddings: FloatArray) -> FloatArray:
    """Euclidean norms: [P, D] -> [P]."""
    result: FloatArray = np.linalg.norm(embeddings, axis=1)
    return result


def on_sphere(embeddings: FloatArray, *, radius: float, width: int) -> FloatArray:
    """Items with the coordinate that puts them on a sphere, then zeros: [P, D] -> [P, W].

    Longer ones than `radius` have 0 there: their products are right, which list they fall into is less so.
    """
    placed = padded(embeddings, width=width)
    squares = np.einsum("pd,pd->p", embeddings, embeddings, dtype=np.float64)
    placed[:, embeddings.shape[1]] = np.sqrt(np.maximum(radius**2 - squares, 0.0))
    return placed


def placed(embeddings: FloatArray, *, radius: float | None, width: int) -> FloatArray:
    """Items on a sphere, or as they are and zeros where there is none: [P, D] -> [P, W]."""
    return padded(embeddings, width=width) if radius is None else on_sphere(embeddings, radius=radius, width=width)


def padded(embeddings: FloatArray, *, width: int) -> FloatArray:
    """With zeros up to the width of a structure: [P, D] -> [P, W]; of a query they add nothing to any product."""
    if embeddings.shape[1] == width:
        return embeddings
    result = np.zeros((len(embeddings), width), dtype=np.float32)
    result[:, : embeddings.shape[1]] = embeddings
    return result


def normalised(embeddings: FloatArray) -> FloatArray:
    """Of length 1, but for zeros, which stay: [P, D] -> [P, D]."""
    lengths = norms(embeddings)[:, None]
    result: FloatArray = np.divide(embeddings, lengths, out=embeddings.copy(), where=lengths > 0)
    return result


def heaviest(embeddings: FloatArray, *, share: float) -> NDArray[np.bool_]:
    """Whether an item is among the longest `share` of all [P], rounded up."""
    is_heavy = np.zeros(len(embeddings), dtype=np.bool_)
    num = int(np.ceil(share * len(embeddings)))
    is_heavy[np.argsort(-norms(embeddings), kind="stable")[:num]] = True
    return is_heavy
