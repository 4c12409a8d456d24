"""Whether the released rankers' probabilities hold on past requests: what was promised beside what was chosen.

Owns which systems have probabilities, and the numbers of these in a report. How an error is measured is
evaluation/calibration.py's, which probability a score stands for ranking/runtime/calibration.py's.
"""

# Shapes: n requests of a slice, T ranked candidates of each.

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.calibration import Reliability, log_loss, reliability
from evaluation.lists import RankedLists
from evaluation.metrics import gains
from evaluation.significance import Interval, bootstrap_interval
from features.vocab import PADDING
from lifecycle.slices import Slice
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT
from ranking.runtime.calibration import Calibration
from serving.release import CALIBRATION_FILE

logger = logging.getLogger(__name__)

NUM_BINS = 15
DIRECTORIES = {"fused_student": STUDENT, "fused_lightgbm": GRADIENT_BOOSTING}


@dataclass(frozen=True)
class Calibrated:
    """What a report says of probabilities, and what its figure shows, both by system."""

    calibration: dict[str, dict[str, Interval]] = field(default_factory=dict)
    reliabilities: dict[str, Reliability] = field(default_factory=dict)


def calibrated(
    systems: Mapping[str, RankedLists], part: Slice, *, ranker_dir: Path, num_ranked: int, seed: int
) -> Calibrated:
    """Measure the probabilities of all ranked candidates on a slice; lists without any are left out.

    Args:
        systems: lists of all requests, by system; what was ranked comes first, by the ranker's own scores.
        part: the slice.
        ranker_dir: with a calibration beside each ranker; one without is left out.
        num_ranked: T.
        seed: of the resamples.
    """
    found = Calibrated()
    for name, directory in DIRECTORIES.items():
        path = ranker_dir / directory / CALIBRATION_FILE
        if name not in systems or not path.is_file():
            continue
        rows, scores = (own[part.places, :num_ranked] for own in (systems[name].rows, systems[name].scores))
        present = (rows != PADDING) & np.isfinite(scores)
        holding = present.any(axis=1)
        if holding.sum() < 2:
            continue
        rows, scores, present = rows[holding], scores[holding], present[holding]
        chosen = gains(ranked=rows, relevant=part.relevant[holding]) > 0
        # A score has no level of its own; its sigmoid is what a reader would take it for.
        own, before = (
            _measured(calibration.probabilities(scores), chosen, present=present, seed=seed)
            for calibration in (Calibration.read(path), Calibration(slope=1.0, intercept=0.0))
        )
        found.calibration[name] = {
            "ece": own[0].error,
            "ece_of_scores": before[0].error,
            "log_loss": own[1],
            "log_loss_of_scores": before[1],
        }
        found.reliabilities[name] = own[0]
        logger.info(
            "%s: ECE %.5f (%.5f-%.5f), chance alone %.5f, the sigmoid of its scores %.3f",
            *(name, own[0].error.value, own[0].error.low, own[0].error.high, own[0].by_chance, before[0].error.value),
        )
    return found


def _measured(
    probabilities: NDArray[np.floating[Any]], chosen: NDArray[np.bool_], *, present: NDArray[np.bool_], seed: int
) -> tuple[Reliability, Interval]:
    promised = probabilities.astype(np.float64)
    generator = np.random.default_rng(seed)
    num_bins = min(NUM_BINS, int(present.sum()))
    bins = reliability(promised, chosen, present=present, generator=generator, num_bins=num_bins)
    losses = log_loss(promised, chosen, present=present)
    return bins, bootstrap_interval(losses, generator=generator)
