"""Which events a model may have seen: the two states of the world in which stage 1 is trained.

FOLD is stage 1 as it was before the events that the ranker learns from and is validated on: its candidates for them
are out of fold. REFIT is stage 1 with everything before the test events: it is measured and released.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """A name, the splits whose events are known, and the split that early stopping watches, if any."""

    name: str
    splits: tuple[str, ...]
    validation: str | None


FOLD = Cut(name="fold", splits=("train",), validation="validation")
REFIT = Cut(name="refit", splits=("train", "ranking", "validation"), validation=None)
CUTS = (FOLD, REFIT)
