"""Which requests and which of their chosen items are measured together.

Owns the slices of a test split: all pairs, new and repeated ones, queries with and without a history,
items that nobody had. What a system is
and how it is measured is evaluate.py's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.requests import PastRequests
from features.vocab import PADDING

MIN_REQUESTS = 2  # fewer have no interval


@dataclass(frozen=True)
class Slice:
    """Some of the requests with some of what they chose.

    Attributes:
        name: what the report calls it.
        note: what a reader of its numbers must know.
        exclude_seen: whether it is measured on lists without what the queries had.
        places: [n] which of the requests.
        relevant: [n, M] ItemRow, PADDING where there are fewer.
        grades: [n, M] relevance of these.
    """

    name: str
    note: str
    exclude_seen: bool
    places: NDArray[np.int64]
    relevant: NDArray[np.int64]
    grades: NDArray[np.float32]

    @property
    def num_pairs(self) -> int:
        """Pairs of a request and a relevant item."""
        return int((self.relevant != PADDING).sum())


def slices_of(
    dataset: Dataset, asked: PastRequests, *, repeats: bool, is_cold: NDArray[np.bool_] | None = None
) -> list[Slice]:
    """The slices of test requests, the main one first; those of fewer than MIN_REQUESTS requests are left out.

    Args:
        dataset: the log.
        asked: requests with what is looked for.
        repeats: whether items that a query had may be recommended to it; where not, all pairs are new ones.
        is_cold: [R] items that can be recommended though nobody had them in training; None: not asked.
    """
    everything = np.ones(asked.relevant.shape, dtype=np.bool_)
    is_warm = (asked.stops > dataset.events.offsets[asked.queries])[:, None] & everything
    kinds = [("all pairs", "", False, everything)] if repeats else [("new pairs", "", True, everything)]
    if repeats:
        kinds += [
            ("new pairs", "items that the query never had; lists without those that it had", True, ~asked.had),
            ("repeated pairs", "items that the query had before", False, asked.had),
        ]
    if is_warm.any() and not is_warm.all():
        kinds += [
            ("warm queries", "with earlier events", not repeats, is_warm),
            ("cold queries", "without earlier events", not repeats, ~is_warm),
        ]
    if is_cold is not None and is_cold.any():
        note = "that nobody had in training; the others stand in the lists too"
        kinds.append(("cold items", note, not repeats, is_cold[asked.relevant]))
    slices = [
        slice_of(asked, name=name, note=note, exclude_seen=excluding, kept=kept)
        for name, note, excluding, kept in kinds
    ]
    return [slices[0], *(own for own in slices[1:] if len(own.places) >= MIN_REQUESTS)]


def slice_of(asked: PastRequests, *, name: str, note: str, exclude_seen: bool, kept: NDArray[np.bool_]) -> Slice:
    """The requests that have any of the pairs that `kept` [N, M] names, with these alone."""
    places = np.flatnonzero((kept & (asked.relevant != PADDING)).any(axis=1))
    own = asked.only(kept)
    return Slice(
        name=name, note=note, exclude_seen=exclude_seen, places=places, relevant=own.relevant, grades=own.grades
    )
