"""Where negatives come from, and how often each is expected: what a corrected loss needs to know of its sample."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Negatives:
    """A sample shared by all positions of a batch: M items and the log of each one's expected count."""

    rows: Tensor  # [M] ItemRow
    log_expected_count: Tensor  # [M]


class FrequencySampler:
    """Samples items with replacement, in proportion to (training frequency) ** exponent.

    Exponent 0 is uniform over the items seen in training, 1 is as often as in a batch of events.

    Args:
        num_negatives: M, drawn once a batch.
        exponent: between uniform (0) and the items' frequency (1).
    """

    def __init__(self, *, num_negatives: int, exponent: float) -> None:
        if num_negatives < 1 or not 0.0 <= exponent <= 1.0:
            raise ValueError(
                f"negatives needs num_negatives >= 1 and 0 <= exponent <= 1; got {num_negatives} and {exponent}"
            )
        self.num_negatives = num_negatives
        self.exponent = exponent

    def probabilities(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R] chance of each row of the item table in one draw, from its training events; unseen rows have none."""
        weights = np.where(counts > 0, np.power(np.maximum(counts, 1.0), self.exponent), 0.0)
        if weights.sum() == 0:
            raise ValueError("no item has a training event, so nothing can be sampled: check the split")
        probabilities: NDArray[np.float64] = weights / weights.sum()
        return probabilities

    def sample(self, probabilities: Tensor, *, generator: torch.Generator | None = None) -> Negatives:
        """Draw M rows by the probabilities [R], on their device."""
        rows = torch.multinomial(probabilities, self.num_negatives, replacement=True, generator=generator)
        return Negatives(rows=rows, log_expected_count=torch.log(self.num_negatives * probabilities[rows]))
