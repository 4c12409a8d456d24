"""The calibration of a ranker: log odds of being chosen, as a line of its score that never falls.

Owns the fit. Lists must be of requests from which the ranker has not learned, or it would take its scores for better
than they are. What is served is runtime/calibration.py's. numpy and scipy.

Isotonic regression and a line in five pieces were within .003 of it in expected error, now above and now below; scores
less their list's mean are worse where lists differ in how much of them is chosen (docs/log.md).
"""

# Shapes: P candidates of all lists together.

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ranking.runtime.calibration import Calibration

FloatArray = NDArray[np.float64]


class NothingToCalibrate(ValueError):
    """Everything was chosen, or nothing."""


def fit_calibration(scores: FloatArray, *, chosen: NDArray[np.bool_]) -> Calibration:
    """The line of highest likelihood.

    Args:
        scores: [P] of the ranker; those that are not finite say nothing.
        chosen: [P] what was chosen.

    Raises:
        NothingToCalibrate: all or none of the candidates with a finite score were chosen.
    Source: Platt, 1999, "Probabilistic outputs for support vector machines".
    """
    finite = np.isfinite(scores)
    scores, chosen = scores[finite], chosen[finite]
    num_chosen, num_others = int(chosen.sum()), int((~chosen).sum())
    if not num_chosen or not num_others:
        raise NothingToCalibrate(
            f"expected some of the candidates to be chosen and some not; got {num_chosen} chosen of {len(chosen)}; "
            "give lists of more requests"
        )
    # Platt's targets, not 1 and 0: scores that part the two without a miss would else rise for ever.
    targets = np.where(chosen, (num_chosen + 1.0) / (num_chosen + 2.0), 1.0 / (num_others + 2.0))
    mean, deviation = scores.mean(), scores.std() or 1.0
    inputs = np.stack([(scores - mean) / deviation, np.ones(len(scores))], axis=1)  # [P, 2]

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        logits = inputs @ weights
        errors = np.exp(-np.logaddexp(0.0, -logits)) - targets
        return float(np.mean(np.logaddexp(0.0, logits) - targets * logits)), inputs.T @ errors / len(scores)

    found = minimize(
        loss,
        np.array([0.0, np.log(num_chosen / num_others)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    slope = float(found.x[0] / deviation)
    return Calibration(slope=slope, intercept=float(found.x[1] - slope * mean))
