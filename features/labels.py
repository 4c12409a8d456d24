"""Feedback -> graded relevance, where each label came from, and how many better ones would be needed.

Owns the columns `relevance` (float32, >= 0) and `label_source`. Relevance 0 is feedback too: what was refused or
skipped stays in the log and in histories, and is never a target. Knows nothing of time or splits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import LabelError

EXPLICIT = "explicit"  # the query said so: the event's value was read
IMPLICIT = "implicit"  # the query did so: the event happened, its value was not read
ASSUMED = "assumed"  # neither: a default of the configuration


class Labels(Protocol):
    """A rule from events to labels."""

    def label(self, events: pa.Table) -> pa.Table:
        """The same rows with `relevance` and `label_source` appended."""
        ...


@dataclass(frozen=True)
class RatingLabels:
    """Ratings on a scale.

    With `threshold` null every rating is a positive, whatever its value (the leave-one-out protocol): the label is then
    implicit. With a threshold, ratings below it have relevance 0; those at or above have 1, or, `graded`, 1 at the
    threshold and one more for each step of value above it.
    """

    threshold: float | None = None
    graded: bool = False

    def __post_init__(self) -> None:
        if self.graded and self.threshold is None:
            raise LabelError("labels.graded counts steps above labels.threshold, which is null; set it, say to 4")

    def label(self, events: pa.Table) -> pa.Table:
        """Append `relevance` and `label_source`."""
        if self.threshold is None:
            return _with_labels(events, relevance=pa.repeat(pa.scalar(1.0), events.num_rows), label_source=IMPLICIT)
        steps = pc.add(pc.subtract(events["value"], self.threshold), 1.0)
        positive = steps if self.graded else pa.scalar(1.0)
        relevance = pc.if_else(pc.greater_equal(events["value"], self.threshold), positive, 0.0)
        return _with_labels(events, relevance=relevance, label_source=EXPLICIT)


@dataclass(frozen=True)
class ActionLabels:
    """Actions such as views and purchases: each kind of event has one relevance.

    `otherwise` is the relevance of kinds that `relevance` does not name, marked as assumed; null refuses them.
    """

    relevance: Mapping[str, float]
    otherwise: float | None = None

    def __post_init__(self) -> None:
        negative = sorted(event for event, value in self.relevance.items() if value < 0)
        if negative:
            raise LabelError(f"labels.relevance must be 0 or more, but is negative for {negative}")
        if self.otherwise is not None and self.otherwise < 0:
            raise LabelError(f"labels.otherwise must be 0 or more, got {self.otherwise}")

    def label(self, events: pa.Table) -> pa.Table:
        """Append `relevance` and `label_source`.

        Raises:
            LabelError: a kind of event has no relevance and `otherwise` is null.
        """
        place = pc.index_in(events["event"], value_set=pa.array(list(self.relevance), pa.string()))
        relevance = pc.take(pa.array([float(value) for value in self.relevance.values()], pa.float64()), place)
        if self.otherwise is None:
            unnamed = pc.unique(events["event"].filter(pc.is_null(place))).to_pylist()
            if unnamed:
                raise LabelError(
                    f"no relevance for events {sorted(unnamed)}, only for {sorted(self.relevance)}; "
                    "name them in labels.relevance or give labels.otherwise a value"
                )
        else:
            relevance = pc.fill_null(relevance, float(self.otherwise))
        source = pc.if_else(pc.is_null(place), pa.scalar(ASSUMED), pa.scalar(IMPLICIT))
        return _with_labels(events, relevance=relevance, label_source=source)


def labels_needed(*, width: float, proportion: float = 0.5, confidence: float = 0.95) -> int:
    """Explicit labels that a confidence interval of a given width asks for.

    The labels are judgements of served items, drawn at random; the interval is of the share judged relevant, such as
    precision. The number times what one judgement costs is what implicit feedback saves, and what trusting it risks.

    Args:
        width: of the whole interval, in (0, 1).
        proportion: expected share, in (0, 1); 0.5 asks for the most labels.
        confidence: of the interval, in (0, 1).

    Raises:
        LabelError: a value is out of its bounds.

    Source: the normal approximation to the binomial, n = z^2 p (1 - p) / (width / 2)^2.
    """
    for name, value in (("width", width), ("proportion", proportion), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise LabelError(f"labels_needed: expected {name} between 0 and 1; got {value}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return math.ceil(z**2 * proportion * (1.0 - proportion) / (width / 2) ** 2)


def _with_labels(events: pa.Table, *, relevance: pa.Array, label_source: pa.Array | str) -> pa.Table:
    if isinstance(label_source, str):
        label_source = pa.repeat(pa.scalar(label_source), events.num_rows)
    return events.append_column("relevance", relevance.cast(pa.float32())).append_column("label_source", label_source)
