"""Whether probabilities say what happens: expected calibration error, and what it is made of bin by bin.

Owns the arithmetic; table and figure are reliability_plot.py's. Takes probabilities and outcomes of whole lists,
whoever made them. Candidates of one list are not independent (one of them is chosen, or none), so intervals resample
lists.
"""

# Shapes: N lists of C candidates, B bins, R resamples.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import InvalidSample
from evaluation.significance import DRAWS_AT_ONCE, Interval

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Reliability:
    """Bins of equally many pairs in the order of their probability; bounds are of 95 % intervals over lists.

    Attributes:
        predicted: [B] mean probability of each bin.
        observed: [B] share of the bin that was chosen; low, high: [B] bounds of it.
        num_pairs: [B] pairs of a list and a candidate.
        num_lists: N.
        by_chance: what a calibrated model would be measured at, for bins of so many pairs are off by chance.
        error: expected calibration error. Its resamples are binned as the sample is, and have noise of their own on
            top, which only ever adds to an absolute difference: bounds are moved down by what it adds on average.
    """

    predicted: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray
    num_pairs: NDArray[np.int64]
    num_lists: int
    by_chance: float
    error: Interval


def log_loss(probabilities: FloatArray, outcomes: BoolArray, *, present: BoolArray) -> FloatArray:
    """Mean negative log likelihood of each list's outcomes, [N], in nats a candidate.

    Args:
        probabilities: [N, C] in (0, 1).
        outcomes: [N, C] what happened.
        present: [N, C] where there is a candidate; every list has one.

    Raises:
        InvalidSample: a probability is none, or a list is empty.
    """
    probabilities = _checked(probabilities, outcomes, present)
    likelihood = np.where(outcomes, probabilities, 1.0 - probabilities)
    losses = -np.log(np.maximum(likelihood, np.finfo(np.float64).tiny))
    mean: FloatArray = np.sum(losses, axis=1, where=present) / present.sum(axis=1)
    return mean


def reliability(
    probabilities: FloatArray,
    outcomes: BoolArray,
    *,
    present: BoolArray,
    generator: np.random.Generator,
    num_bins: int = 10,
    num_resamples: int = 1000,
) -> Reliability:
    """Predicted beside observed, in bins of equally many pairs.

    Where most probabilities are small, bins of equal width would put nearly all pairs into one. Equal probabilities may
    be parted by a bin's edge, in the order in which they come.

    Args:
        probabilities: [N, C] in [0, 1].
        outcomes: [N, C] what happened.
        present: [N, C] where there is a candidate; every list has one.
        generator: source of the resamples, which are of lists.
        num_bins: B, at most as many as there are pairs.
        num_resamples: R.

    Raises:
        InvalidSample: a probability is none, a list is empty, there are fewer than 2 lists, or fewer pairs than bins.
    Source: Naeini et al., AAAI 2015 (the error); Nguyen and O'Connor, EMNLP 2015 (bins of equal mass).
    """
    probabilities = _checked(probabilities, outcomes, present)
    num_lists, pairs = len(present), np.flatnonzero(present)
    if num_lists < 2 or not 1 <= num_bins <= len(pairs):
        raise InvalidSample(
            f"expected 2 lists or more and 1 to {len(pairs)} bins, no more than there are pairs; got {num_lists} lists "
            f"and {num_bins} bins; give more lists, or ask for fewer bins"
        )
    order = pairs[np.argsort(probabilities.ravel()[pairs], kind="stable")]
    bins = np.arange(len(order)) * num_bins // len(order)
    owners = order // present.shape[1]
    # Sums by list and bin, so that a resample of lists is a weighted sum of them.
    cells = owners * num_bins + bins
    counts, predicted, observed = (
        np.bincount(cells, weights=weights, minlength=num_lists * num_bins).reshape(num_lists, num_bins)
        for weights in (None, probabilities.ravel()[order], outcomes.ravel()[order].astype(np.float64))
    )
    sums = np.concatenate([counts, predicted, observed], axis=1)  # [N, 3 * B]
    at_once = max(1, DRAWS_AT_ONCE // num_lists)
    drawn = np.concatenate(
        [
            generator.multinomial(
                num_lists, np.full(num_lists, 1.0 / num_lists), size=min(at_once, num_resamples - done)
            )
            @ sums
            for done in range(0, num_resamples, at_once)
        ]
    ).reshape(num_resamples, 3, num_bins)
    low, high = np.quantile(drawn[:, 2] / np.maximum(drawn[:, 0], 1.0), (0.025, 0.975), axis=0)
    error = float(np.abs(predicted.sum(axis=0) - observed.sum(axis=0)).sum() / len(order))
    errors = np.abs(drawn[:, 1] - drawn[:, 2]).sum(axis=1) / drawn[:, 0].sum(axis=1)
    bounds = np.quantile(errors, (0.025, 0.975)) - max(errors.mean() - error, 0.0)
    total = counts.sum(axis=0)
    own = probabilities.ravel()[order]
    variances = np.bincount(bins, weights=own * (1.0 - own), minlength=num_bins)
    return Reliability(
        predicted=predicted.sum(axis=0) / total,
        observed=observed.sum(axis=0) / total,
        low=low,
        high=high,
        num_pairs=total.astype(np.int64),
        num_lists=num_lists,
        # The mean of a normal deviation's absolute value.
        by_chance=float(np.sqrt(2.0 / np.pi * variances).sum() / len(order)),
        error=Interval(error, float(min(max(bounds[0], 0.0), error)), float(max(bounds[1], error))),
    )


def _checked(probabilities: FloatArray, outcomes: BoolArray, present: BoolArray) -> FloatArray:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or not probabilities.shape == outcomes.shape == present.shape:
        raise InvalidSample(
            f"expected probabilities, outcomes and present of one shape [N, C]; got {probabilities.shape}, "
            f"{outcomes.shape} and {present.shape}"
        )
    own = probabilities[present]
    if not ((own >= 0.0) & (own <= 1.0)).all():
        raise InvalidSample(
            f"{np.sum(~((own >= 0.0) & (own <= 1.0)))} of {len(own)} probabilities are not in [0, 1]; give those of a "
            "calibration, not scores"
        )
    if not present.any(axis=1).all():
        raise InvalidSample("a list has no candidate; leave empty lists out")
    return probabilities
