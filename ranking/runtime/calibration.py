"""From a ranker's score to the probability that the candidate is chosen.

Owns the map as it is served, and its file. Where its knots lie and how high is fitted by ranking/calibration_fit.py.
The map never falls, so the order of a list is the order of its scores; candidates with equal probabilities may have
different scores. numpy only.
"""

# Shapes: K knots.

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Log odds that are linear in the score from knot to knot, and constant before the first and after the last.

    Attributes:
        knots: [K] scores, ascending.
        logits: [K] log odds of being chosen at each, never falling.

    Raises:
        ValueError: they are not so.
    """

    knots: FloatArray
    logits: FloatArray

    def __post_init__(self) -> None:
        if self.knots.ndim != 1 or self.knots.shape != self.logits.shape or not len(self.knots):
            raise ValueError(
                f"expected as many logits as knots, one or more; got {self.knots.shape} knots and {self.logits.shape} "
                "logits; train the ranker again: scripts/train_ranker.py"
            )
        is_finite = np.isfinite(self.knots).all() and np.isfinite(self.logits).all()
        if not is_finite or (np.diff(self.knots) <= 0).any() or (np.diff(self.logits) < 0).any():
            raise ValueError(
                f"expected finite ascending knots and logits that never fall; got {self.knots.tolist()} and "
                f"{self.logits.tolist()}; train the ranker again: scripts/train_ranker.py"
            )

    def probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Probability of each score; one that is not a number counts as the worst, as in the order of a list."""
        own = np.where(np.isnan(scores), -np.inf, scores).astype(np.float64)
        own = np.clip(own, self.knots[0], self.knots[-1])
        after = np.clip(np.searchsorted(self.knots, own), 1, max(len(self.knots) - 1, 1))
        low, high = after - 1, np.minimum(after, len(self.knots) - 1)
        width = np.where(high > low, self.knots[high] - self.knots[low], 1.0)
        rise = self.logits[high] - self.logits[low]
        # Rounding may lift the end of a piece above the beginning of the next one.
        logits = np.minimum(self.logits[low] + (own - self.knots[low]) / width * rise, self.logits[high])
        probabilities: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return probabilities

    def write(self, path: Path) -> None:
        """Write a json file."""
        content = {"knots": self.knots.tolist(), "logits": self.logits.tolist()}
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse of `write`.

        Raises:
            ValueError: it holds no such map.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: np.array(content[name], dtype=np.float64) for name in ("knots", "logits")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no calibration: {error}") from error
