"""The calibration of a ranker: log odds of being chosen, as a function of its score that never falls.

Owns where the knots lie and the fit. Lists must be of requests from which the ranker has not learned, or it would take
its scores for better than they are. What is served is runtime/calibration.py's. numpy and scipy.

A line alone (Platt) is too stiff for trees and where much was chosen; scores less their list's mean are far worse where
lists differ in how much of them is chosen (docs/log.md).
"""

# Shapes: P candidates of all lists together, K knots.

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ranking.runtime.calibration import Calibration

FloatArray = NDArray[np.float64]

# Of the scores of what was chosen, so that every piece has as much to go by; the others are a hundred times as many.
QUANTILES = (0.2, 0.4, 0.6, 0.8)


class NothingToCalibrate(ValueError):
    """Everything was chosen, or nothing."""


def fit_calibration(scores: FloatArray, *, chosen: NDArray[np.bool_]) -> Calibration:
    """The map of highest likelihood, with a prior that holds it where hardly anything was chosen.

    Args:
        scores: [P] of the ranker; those that are not finite say nothing.
        chosen: [P] what was chosen.

    Raises:
        NothingToCalibrate: all or none of the candidates with a finite score were chosen.
    Source: Platt, 1999, with pieces as of Zadrozny and Elkan, KDD 2002.
    """
    finite = np.isfinite(scores)
    scores, chosen = scores[finite].astype(np.float64), chosen[finite]
    if chosen.all() or not chosen.any():
        raise NothingToCalibrate(
            f"expected some of the candidates to be chosen and some not; got {chosen.sum()} chosen of {len(chosen)}; "
            "give lists of more requests"
        )
    knots = np.unique([scores.min(), *np.quantile(scores[chosen], QUANTILES), scores.max()])
    if len(knots) == 1:
        share = chosen.mean()
        return Calibration(knots=knots, logits=np.log([share / (1.0 - share)]))
    # What of each piece lies below the score; a slope of at least 0 for each makes the map never fall.
    pieces = np.clip(scores[:, None], knots[:-1], knots[1:]) - knots[:-1]  # [P, K - 1]
    scale = pieces.std(axis=0)
    scale[scale == 0.0] = 1.0
    inputs = np.concatenate([pieces / scale, np.ones((len(scores), 1))], axis=1)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        logits, slopes = inputs @ weights, np.append(weights[:-1], 0.0)
        probabilities = 1.0 / (1.0 + np.exp(-logits))
        # A standard normal prior of the slopes: without it a piece in which all were chosen would rise for ever.
        total = np.sum(np.logaddexp(0.0, logits) - chosen * logits) + 0.5 * slopes @ slopes
        return float(total) / len(scores), (inputs.T @ (probabilities - chosen) + slopes) / len(scores)

    share = chosen.mean()
    found = minimize(
        loss,
        np.append(np.zeros(len(scale)), np.log(share / (1.0 - share))),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(scale) + [(None, None)],
        options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-8},
    )
    rises = found.x[:-1] / scale * np.diff(knots)
    return Calibration(knots=knots, logits=found.x[-1] + np.concatenate([[0.0], np.cumsum(rises)]))
