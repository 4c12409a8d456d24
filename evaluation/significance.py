"""Bootstrap intervals over queries.

Owns resampling. Takes one value per query (metrics.py) and says how far the mean can be trusted.
"""

# Shapes: Q queries, R resamples.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidSample

FloatArray = NDArray[np.float64]

# Draws held at once: 8 MB of indices and 8 MB of values, whatever the number of queries.
DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over queries and where it lies with the level asked for."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is one at this level."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def bootstrap_interval(
    values: FloatArray,
    *,
    generator: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of the values and its percentile bootstrap interval over queries.

    Args:
        values: [Q] one finite value per query.
        generator: source of the resamples; the same state gives the same interval.
        num_resamples: R; 2000 leaves about 0.1 standard errors of noise in a 95 % bound.
        level: share of resampled means inside the interval.

    Raises:
        InvalidSample: fewer than 2 values, a value that is not finite, or a level outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise InvalidSample(f"values has shape {values.shape}; expected [Q], one value per query, Q >= 2")
    if not np.isfinite(values).all():
        raise InvalidSample(f"{np.sum(~np.isfinite(values))} of {len(values)} values are not finite")
    if not 0 < level < 1 or num_resamples < 1:
        raise InvalidSample(f"level must lie in (0, 1) and num_resamples above 0; got {level} and {num_resamples}")
    means = _resampled_means(values, generator=generator, num_resamples=num_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(values.mean()), low=float(low), high=float(high))


def paired_difference(
    first: FloatArray,
    second: FloatArray,
    *,
    generator: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(first - second), the same queries drawn for both.

    Pairing removes what makes a query hard for every system, so it finds differences that two separate intervals hide.

    Args:
        first: [Q] values of one system.
        second: [Q] values of the other, for the same queries in the same order.
        generator: source of the resamples.
        num_resamples: R.
        level: share of resampled means inside the interval.

    Raises:
        InvalidSample: shapes differ, or as in `bootstrap_interval`.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise InvalidSample(f"pairs need the same queries in the same order; got {first.shape} and {second.shape}")
    return bootstrap_interval(first - second, generator=generator, num_resamples=num_resamples, level=level)


def _resampled_means(values: FloatArray, *, generator: np.random.Generator, num_resamples: int) -> FloatArray:
    num_queries = len(values)
    at_once = max(1, DRAWS_AT_ONCE // num_queries)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, at_once):
        stop = min(start + at_once, num_resamples)
        drawn = generator.integers(0, num_queries, size=(stop - start, num_queries))  # [<= at_once, Q]
        means[start:stop] = values[drawn].mean(axis=1)
    return means
