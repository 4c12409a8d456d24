"""What the training loop asks of a loss: what conf/loss/*.yaml names, and the functions that come out of it.

Shapes: P positions with a target, N items that can be recommended or sampled, M negatives of a position, D
embedding width.
"""

from typing import Protocol

from torch import Tensor


class OverAll(Protocol):
    """A loss that reads the scores of all items, which are products: so it may make them as it needs them."""

    def __call__(self, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """[P, D], [N, D], [P] place of the target among the N -> [P]."""


class OverSample(Protocol):
    """A loss that reads the target's logit and those of negatives."""

    def __call__(
        self, positive_logits: Tensor, negative_logits: Tensor, *, log_expected_count: Tensor, left_out: Tensor
    ) -> Tensor:
        """[P], [P, M], [M], [P, M] -> [P].

        `log_expected_count` is the log of the number of times that each negative's item is expected in the sample;
        `left_out` is true where a negative does not count: the position's own target, or none at all.
        """


class Loss(Protocol):
    """Settings of a loss, which says what it needs once the number of items is known."""

    @property
    def takes_hard(self) -> bool:
        """Whether mined negatives, which no correction makes up for, may stand among the others."""

    def over_all(self, num_items: int) -> OverAll | None:
        """What is minimised over all items, or None where a sample will do."""

    def over_sample(self, num_items: int) -> OverSample:
        """What is minimised over a sample of this many items.

        Raises:
            UnfitPieces: a setting has no meaning over a sample.
        """
