"""From a ranker's score to the probability that the candidate is chosen.

Owns the map as it is served, and its file; ranking/calibration_fit.py fits it. It never falls, so the order of a list
is the order of its scores. numpy only.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """Log odds of being chosen: slope * score + intercept.

    Raises:
        ValueError: one of them is not finite, or the slope is below 0.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope >= 0.0):
            raise ValueError(
                f"expected a finite slope of at least 0 and a finite intercept; got {self.slope} and {self.intercept}; "
                "train the ranker again: scripts/train_ranker.py"
            )

    def probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Probability of each score; NaN for one that is not finite."""
        finite = np.isfinite(scores)
        logits = self.slope * np.where(finite, scores, 0.0).astype(np.float64) + self.intercept
        # A sigmoid that does not overflow.
        return np.where(finite, np.exp(-np.logaddexp(0.0, -logits)), np.nan).astype(np.float32)

    def write(self, path: Path) -> None:
        """Write a json file."""
        path.write_text(json.dumps({"slope": self.slope, "intercept": self.intercept}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse of `write`.

        Raises:
            ValueError: it holds no such map.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(slope=float(content["slope"]), intercept=float(content["intercept"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no calibration: {error}") from error
