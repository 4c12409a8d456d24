"""What was learnt about values: category vocabularies and number scales, fitted on training rows only.

Owns the mapping from a raw value to its VocabId. Knows nothing of items' places in an index (catalogue.py).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PADDING = 0
UNKNOWN = 1
FIRST = 2
EVENT = "event"  # the vocabulary of kinds of events
ITEM_ID = "item_id"
HISTORY_VALUE = "history_value"  # the scale of events' values


@dataclass(frozen=True)
class Vocabulary:
    """Values of one category, in VocabId order from FIRST on."""

    values: tuple[str, ...]

    @classmethod
    def fit(cls, values: Iterable[str], *, min_count: int = 1) -> Self:
        """Keep the values seen at least `min_count` times, most frequent first, ties by value."""
        counts = Counter(value for value in values if value)
        kept = [value for value, count in counts.items() if count >= min_count]
        return cls(values=tuple(sorted(kept, key=lambda value: (-counts[value], value))))

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {value: place for place, value in enumerate(self.values, start=FIRST)}

    def __len__(self) -> int:
        """Embedding rows needed: the values, padding and unknown."""
        return len(self.values) + FIRST

    def encode(self, values: Sequence[str]) -> NDArray[np.int64]:
        """VocabIds [len(values)]; an empty value is padding, one never seen is unknown."""
        known = self._id_of
        return np.array([known.get(value, UNKNOWN) if value else PADDING for value in values], dtype=np.int64)


@dataclass(frozen=True)
class NumberScale:
    """Mean and deviation of a number; a missing value becomes the mean, hence 0 after scaling."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> Self:
        """Fit on the finite values but their outliers; without any value, the identity.

        What lies outside the inner 99 % counts as the edge of these: one price of a billion would else put all others
        into one place.
        """
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return cls(mean=0.0, deviation=1.0)
        # Edges that are values: between two values an interpolation may overflow, and rounds.
        low, high = np.quantile(finite, [0.005, 0.995], method="nearest")
        finite = np.clip(finite, low, high)
        mean, deviation = float(finite.mean()), float(finite.std())
        # The mean of equal values can miss them by its rounding error, and their deviation is then that error, not 0.
        return cls(mean=mean, deviation=deviation if deviation > 1e-12 * abs(mean) else 1.0)

    def scale(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Standardised values of the same shape, clipped to 5 deviations so that one bad value stays bounded."""
        wide = np.asarray(values, dtype=np.float64)
        centred = np.where(np.isfinite(wide), wide - self.mean, 0.0) / self.deviation
        return np.clip(centred, -5.0, 5.0).astype(np.float32)


@dataclass(frozen=True)
class Vocabularies:
    """All that was fitted, by feature name."""

    categories: Mapping[str, Vocabulary] = field(default_factory=dict)
    numbers: Mapping[str, NumberScale] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain containers for a json file."""
        return {
            "categories": {name: list(vocabulary.values) for name, vocabulary in self.categories.items()},
            "numbers": {name: [scale.mean, scale.deviation] for name, scale in self.numbers.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(
            categories={name: Vocabulary(values=tuple(values)) for name, values in content["categories"].items()},
            numbers={
                name: NumberScale(mean=mean, deviation=deviation)
                for name, (mean, deviation) in content["numbers"].items()
            },
        )
