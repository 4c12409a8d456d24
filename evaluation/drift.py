"""How far two samples of one variable lie apart, and how far apart a random split of the same values would lie.

Owns the two measures and their reference; both measures run from 0 (the same distribution) to 1 (nothing in common).
Knows nothing of features or of who compares.

Shapes: S values of both samples together, R rows that they belong to (a row may have several values, or none).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_SPLITS = 19  # beyond the largest of 19 random splits lies a difference that chance makes 1 time in 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Drift:
    """A difference between two samples.

    Attributes:
        value: 0 to 1; nan where a sample is empty.
        random_split: the largest of NUM_SPLITS random splits of the same rows into samples of the same sizes.
    """

    value: float
    random_split: float


def kolmogorov_smirnov(values: NDArray[np.float64], *, in_first: Mask, generator: np.random.Generator) -> Drift:
    """The largest difference between the shares of the two samples that lie at or below one number.

    Args:
        values: [S] finite.
        in_first: [S] which sample each value belongs to.
        generator: of the random splits.
    """
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    ends = np.flatnonzero(np.append(in_order[1:] != in_order[:-1], True)) if len(values) else np.zeros(0, int)

    def statistic(first: Mask) -> float:
        below = np.cumsum(first[order])[ends]
        shares = below / first.sum(), (ends + 1 - below) / (~first).sum()
        return float(np.abs(shares[0] - shares[1]).max())

    return _with_reference(statistic, in_first, generator)


def jensen_shannon(
    values: NDArray[np.int64], *, rows: NDArray[np.int64], in_first: Mask, generator: np.random.Generator
) -> Drift:
    """Jensen-Shannon distance of the shares of each value: the root of the divergence in bits.

    Args:
        values: [S] codes of categories, from 0.
        rows: [S] the row that each value belongs to.
        in_first: [R] which sample each row belongs to; a random split keeps a row's values together.
        generator: of the random splits.

    Source: Endres and Schindelin, IEEE Transactions on Information Theory 2003, "A new metric for probability
    distributions".
    """
    width = int(values.max(initial=0)) + 1
    total = np.bincount(values, minlength=width)

    def statistic(first: Mask) -> float:
        counts = np.bincount(values[first[rows]], minlength=width)
        if not 0 < counts.sum() < len(values):
            return np.nan
        one, other = counts / counts.sum(), (total - counts) / (len(values) - counts.sum())
        middle = (one + other) / 2
        divergence = (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2
        return float(np.sqrt(np.clip(divergence, 0.0, 1.0)))  # rounding may leave it a bit below 0 or above 1

    return _with_reference(statistic, in_first, generator)


def _relative_entropy(shares: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    some = shares > 0
    return float((shares[some] * np.log2(shares[some] / others[some])).sum())


def _with_reference(statistic: Callable[[Mask], float], in_first: Mask, generator: np.random.Generator) -> Drift:
    if not 0 < in_first.sum() < len(in_first):
        return Drift(value=np.nan, random_split=np.nan)
    splits = [statistic(generator.permutation(in_first)) for _ in range(NUM_SPLITS)]
    return Drift(value=statistic(in_first), random_split=float(np.max(splits)))
