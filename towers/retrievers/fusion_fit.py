"""The weights of a fusion: those under which what was chosen beats what was not, and leads the list.

Owns the loss and its minimum, and the ascent from there. The loss is convex and has a handful of parameters, so that
some hundred requests fit it and nothing is left to chance; but it counts every pair of a union of a thousand, where a
list shows ten. The ascent counts those ten alone. numpy and scipy; what serves is fusion.py's.
"""

# Shapes: P candidates of all requests together, K retrievers; N requests of at most C candidates.

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

SHRINKAGE = 1e-4
ROUNDS = 12  # of the ascent; later ones find next to nothing
SURE = 1.0
FIRST_STEP, LEAST_SCALE = 0.3, 0.1  # of a weight, and of the largest one where a weight is less


class NothingToFit(ValueError):
    """No request has both a chosen and another candidate."""


def fit_weights(
    scores: FloatArray, *, relevant: NDArray[np.bool_], owners: NDArray[np.int64], negative: bool = False
) -> FloatArray:
    """Weights [K] of at least 0, or of any sign.

    Each chosen candidate is to be told from all candidates of its request that were not chosen: the loss is the mean of
    ln(1 + sum over these of exp(their score - its own)), a request's chosen ones counting as one. Where one item was
    chosen this is the softmax over the list; where many were, they do not have to beat one another, which the softmax
    asks for. Below 0 a weight would take the union's own doing for a fact: what one retriever alone brought is worse
    than what several did, whoever it is.

    Args:
        scores: [P, K] of each retriever.
        relevant: [P] what was chosen.
        owners: [P] request of each candidate, ascending; requests without a chosen or without another one say nothing.
        negative: whether a weight may lie below 0, which a union of few retrievers should not have.

    Raises:
        NothingToFit: no request says anything.
    """
    kept, telling = _telling(relevant, owners)
    scores = scores[kept]
    # Equality is asked of the scores themselves: rounding leaves equal ones a tiny deviation.
    differ = scores.max(axis=0) > scores.min(axis=0)
    scale = np.where(differ, scores.std(axis=0), 1.0)
    lists = _Lists(scores=scores / scale, relevant=relevant[kept], owners=telling)
    found = minimize(
        lists.loss,
        np.zeros(scores.shape[1]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None if negative else 0.0, None)] * scores.shape[1],
        options={"maxiter": 500},
    )
    return np.where(differ, found.x / scale, 0.0)


def ascend(
    weights: FloatArray,
    scores: FloatArray,
    *,
    measure: Callable[[FloatArray], FloatArray],
) -> FloatArray:
    """Change one weight after the other as long as what is measured surely grows; a weight stays at or above 0.

    What is measured of a list is piecewise constant, so no gradient leads there, and the highest point of it is luck
    where few requests decide: a change has to gain SURE standard errors of its gain over the requests.

    Args:
        weights: [K] to begin with.
        scores: [N, C, K] of each retriever; any finite number where there is no candidate.
        measure: of each list, given fused scores [N, C], such as NDCG@10: [N].
    """
    scale = np.where((spread := scores.std(axis=(0, 1))) > 0, spread, 1.0)
    scaled, best = weights * scale, measure(scores @ weights)
    fused, steps, least = (
        scores @ weights,
        np.full(len(weights), FIRST_STEP),
        LEAST_SCALE * np.abs(weights * scale).max(),
    )
    for _ in range(ROUNDS):
        for k in np.flatnonzero(spread):
            for sign in (1.0, -1.0):
                changed = max(scaled[k] + sign * steps[k] * max(scaled[k], least), 0.0)
                other = fused + scores[:, :, k] * ((changed - scaled[k]) / scale[k])
                gain = (found := measure(other)) - best
                if gain.mean() > SURE * gain.std() / len(gain) ** 0.5:
                    best, fused, scaled[k] = found, other, changed
                    break
            else:
                steps[k] /= 2
    return scaled / scale


def mean_loss(scores: FloatArray, *, relevant: NDArray[np.bool_], owners: NDArray[np.int64]) -> float:
    """What `fit_weights` minimises, of scores [P] that are sums already."""
    kept, telling = _telling(relevant, owners)
    lists = _Lists(scores=scores[kept, None], relevant=relevant[kept], owners=telling)
    return lists.loss(np.ones(1))[0] - SHRINKAGE / 2


def _telling(relevant: NDArray[np.bool_], owners: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which candidates [P] are of requests with both chosen and other ones, and the request of each of these."""
    num = int(owners.max(initial=-1)) + 1
    chosen, others = (np.bincount(owners[kept], minlength=num) for kept in (relevant, ~relevant))
    kept = ((chosen > 0) & (others > 0))[owners]
    if not kept.any():
        raise NothingToFit("no request has both a chosen and another candidate: there is nothing to fit weights on")
    return kept, np.unique(owners[kept], return_inverse=True)[1]


class _Lists:
    """Candidates of requests that each have some that were chosen and some that were not."""

    def __init__(self, *, scores: FloatArray, relevant: NDArray[np.bool_], owners: NDArray[np.int64]) -> None:
        self.scores, self.relevant, self.owners = scores, relevant, owners
        self.begins = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        self.share = (relevant / np.add.reduceat(relevant.astype(np.float64), self.begins)[owners])[relevant]

    def loss(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """The loss and its gradient [K]."""
        fused = self.scores @ weights  # [P]
        highest = np.maximum.reduceat(fused, self.begins)[self.owners]
        # exp(score - highest) of those that were not chosen, and its sum by request
        odds = np.where(self.relevant, 0.0, np.exp(fused - highest))
        total = np.maximum(np.add.reduceat(odds, self.begins)[self.owners], 1e-300)
        behind = (np.log(total) + highest - fused)[self.relevant]
        num = len(self.begins)
        value = float((np.logaddexp(0.0, behind) * self.share).sum()) / num + SHRINKAGE * float(weights @ weights) / 2
        pull = np.zeros(len(fused))
        pull[self.relevant] = self.share / (1.0 + np.exp(-behind))
        pulled = np.add.reduceat(pull, self.begins)[self.owners]
        gradient = np.where(self.relevant, -pull, odds / total * pulled)
        return value, self.scores.T @ gradient / num + SHRINKAGE * weights
