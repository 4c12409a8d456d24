"""Percentiles of measured times.

Owns the arithmetic and the smallest sample that a percentile needs. Measures nothing: the times come from the caller.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidSample

PERCENTILES = (50.0, 99.0)


def smallest_sample(percentile: float) -> int:
    """Measurements needed so that at least one is expected above the percentile: 2 for p50, 100 for p99."""
    if not 0 < percentile < 100:
        raise InvalidSample(f"a percentile lies in (0, 100); got {percentile}")
    # The rounding takes back the binary error of 100 - 99.9, which would ask for 1001 measurements.
    return ceil(round(100 / (100 - percentile), 6))


def summarise_ms(
    milliseconds: NDArray[np.floating[Any]] | Sequence[float], *, percentiles: Sequence[float] = PERCENTILES
) -> dict[str, float]:
    """Percentiles of the times, by name: {"p50": ..., "p99": ...}, in ms.

    Raises:
        InvalidSample: too few measurements for the highest percentile, or one that is negative or not finite.
    """
    times = np.asarray(milliseconds, dtype=np.float64)
    needed = max(smallest_sample(percentile) for percentile in percentiles)
    if times.ndim != 1 or len(times) < needed:
        raise InvalidSample(
            f"got {times.size} measurements of shape {times.shape}; p{max(percentiles):g} needs at least {needed}, "
            "so measure longer or ask for a lower percentile"
        )
    if not np.isfinite(times).all() or times.min() < 0:
        raise InvalidSample("times must be finite and not negative, in ms")
    return {f"p{percentile:g}": float(np.percentile(times, percentile)) for percentile in percentiles}
