"""Principal coordinates: the few directions that most of the items' length lies along.

Embeddings often spread over fewer directions than they have coordinates. Products along these alone order candidates
nearly as whole products do, and centroids and codes of few coordinates are read faster; then the embeddings score
again.

A random rotation of their space gives each code a like part of it. That is for items which are much alike: what 4 bits
tell apart along a direction of its own, such as few items of great weight, is lost among the sums of all directions.

Source: Jégou et al., CVPR 2010, "Aggregating local descriptors into a compact image representation".
"""

# Shapes: P items, W coordinates as they are, C principal ones.

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

ENOUGH = 100_000  # items to find directions by


def principal_axes(placed: FloatArray, *, num: int, rotated: bool = False) -> FloatArray:
    """Orthonormal [W, C]: with it items [P, W] keep as much of their squares as C coordinates can.

    Not centred, as products are not; the same items always have the same axes.

    Args:
        placed: [P, W].
        num: C, at most W.
        rotated: at random within their space; else the strongest is first.
    """
    shown = placed[:: -(-len(placed) // ENOUGH)].astype(np.float64)
    _, directions = np.linalg.eigh(shown.T @ shown)  # the weakest first
    axes = directions[:, : -num - 1 : -1]
    if rotated:
        axes = axes @ np.linalg.qr(np.random.default_rng(0).normal(size=(num, num)))[0]
    result: FloatArray = np.ascontiguousarray(axes, dtype=np.float32)
    return result
