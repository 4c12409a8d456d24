"""Events that were held out, as requests: who asked when, what was known of them then, and what they chose.

Owns how the events of one split become requests, one for each event or one for all events of a stretch of time. Which
of the chosen items count is protocol.py's.

Shapes: N requests, M relevant items of the request that has most, T events known to all requests together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.spec import DAY_MS
from features.transforms import QueryFeatures
from features.vocab import PADDING

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PastRequests:
    """N requests and what was then chosen.

    Attributes:
        queries: [N] which of the log's queries asked.
        stops: [N] place in the log after the last event of the query that was known.
        requested_at_ms: [N].
        relevant: [N, M] ItemRow of the distinct items that were chosen, PADDING where there are fewer.
        grades: [N, M] their relevance, the highest where an item was chosen several times; 0 at padding.
        had: [N, M] whether the query had the item before it asked.
    """

    queries: IntArray
    stops: IntArray
    requested_at_ms: IntArray
    relevant: IntArray
    grades: NDArray[np.float32]
    had: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def num_relevant(self) -> IntArray:
        """[N] items that were chosen."""
        counts: IntArray = (self.relevant != PADDING).sum(axis=1)
        return counts

    def take(self, places: IntArray | slice) -> "PastRequests":
        """Some of the requests."""
        return PastRequests(
            queries=self.queries[places],
            stops=self.stops[places],
            requested_at_ms=self.requested_at_ms[places],
            relevant=self.relevant[places],
            grades=self.grades[places],
            had=self.had[places],
        )

    def only(self, kept: NDArray[np.bool_]) -> "PastRequests":
        """Of the chosen items those that `kept` [N, M] names, and the requests that have any."""
        owner, column = np.nonzero(kept & (self.relevant != PADDING))
        some, owner = np.unique(owner, return_inverse=True)
        requests = self.take(some)
        arrays = {
            name: _padded(owner, getattr(requests, name)[owner, column], num=len(some))
            for name in ("relevant", "grades", "had")
        }
        return PastRequests(
            queries=requests.queries, stops=requests.stops, requested_at_ms=requests.requested_at_ms, **arrays
        )

    def grades_of(self, rows: IntArray) -> NDArray[np.float32]:
        """[N, C] grade of each item of `rows` [N, C] to its request; 0 for what was not chosen."""
        width = int(max(rows.max(initial=0), self.relevant.max(initial=0))) + 1
        owner, column = np.nonzero(self.relevant != PADDING)
        keys = owner * width + self.relevant[owner, column]
        order = np.argsort(keys)
        keys, grades = np.append(keys[order], -1), np.append(self.grades[owner, column][order], np.float32(0.0))
        wanted = np.arange(len(rows))[:, None] * width + rows
        place = np.searchsorted(keys[:-1], wanted)
        return np.where(keys[place] == wanted, grades[place], np.float32(0.0))

    def states(self, dataset: Dataset, *, length: int) -> QueryFeatures:
        """Raw features of the queries as they asked, histories cut to the newest `length`."""
        return dataset.states(self.queries, self.stops, requested_at_ms=self.requested_at_ms, length=length)

    def known_events(self, dataset: Dataset) -> tuple[IntArray, IntArray]:
        """Which request [T], and the place in the log [T], of every event that a request knew of its query."""
        starts = dataset.events.offsets[self.queries]
        lengths = self.stops - starts
        owner = np.repeat(np.arange(len(self)), lengths)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return owner, starts[owner] + np.arange(len(owner)) - first

    def seen_rows(self, dataset: Dataset) -> IntArray:
        """[N, H] ItemRow of all distinct items that each query had before it asked, PADDING where there are fewer."""
        owner, places = self.known_events(dataset)
        rows, width = dataset.event_rows()[places], len(dataset.items.catalogue)
        keys = np.unique(owner * width + rows)
        seen: IntArray = _padded(keys // width, keys % width, num=len(self))
        return seen


def each_event(dataset: Dataset, split: str) -> PastRequests:
    """A request for every positive event of a split, knowing all that its query did strictly before."""
    places = dataset.events.positives([split])
    queries, relevant = dataset.events.query_of(places), dataset.event_rows()[places]
    return PastRequests(
        queries=queries,
        stops=places,
        requested_at_ms=dataset.events.at_ms[places],
        relevant=relevant[:, None],
        grades=dataset.events.relevance[places, None].astype(np.float32),
        had=_had(dataset, queries, relevant, stops=places)[:, None],
    )


def each_stretch(dataset: Dataset, split: str, *, days: int | None = None) -> PastRequests:
    """A request of every query that has positive events in a stretch of time, made as the stretch begins.

    Args:
        dataset: whose splits are divided by time.
        split: divided into stretches, of which the first begins with its first event.
        days: of a stretch; the last one may be shorter. None: the split is one stretch.
    """
    events = dataset.events
    places = events.places([split])
    begins_at_ms = int(events.at_ms[places].min(initial=np.iinfo(np.int64).max))
    length_ms = np.iinfo(np.int64).max if days is None else days * DAY_MS
    stretch = (events.at_ms[places] - begins_at_ms) // length_ms
    queries, num_stretches = events.query_of(places), int(stretch.max(initial=0)) + 1
    # Places ascend in time within a query, so the first of a stretch is where the query's knowledge ends.
    keys, first, owner = np.unique(queries * num_stretches + stretch, return_index=True, return_inverse=True)
    positive = events.relevance[places] > 0
    some, owner = np.unique(owner[positive], return_inverse=True)
    keys, stops, places = keys[some], places[first[some]], places[positive]
    owner, relevant, grades = _distinct(owner, dataset.event_rows()[places], events.relevance[places])
    had = _had(dataset, (keys // num_stretches)[owner], relevant, stops=stops[owner])
    return PastRequests(
        queries=keys // num_stretches,
        stops=stops,
        requested_at_ms=begins_at_ms + (keys % num_stretches) * (length_ms if num_stretches > 1 else 0),
        relevant=_padded(owner, relevant, num=len(keys)),
        grades=_padded(owner, grades.astype(np.float32), num=len(keys)),
        had=_padded(owner, had, num=len(keys)),
    )


def _distinct(
    owner: IntArray, rows: IntArray, relevance: NDArray[np.float64]
) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
    """Each item of an owner once, with its highest relevance; ascending."""
    width = int(rows.max(initial=0)) + 1
    keys, place = np.unique(owner * width + rows, return_inverse=True)
    highest = np.zeros(len(keys))
    np.maximum.at(highest, place, relevance)
    return keys // width, keys % width, highest


def _had(dataset: Dataset, queries: IntArray, rows: IntArray, *, stops: IntArray) -> NDArray[np.bool_]:
    """Whether each query had the item at a place of the log before `stops`."""
    events, width = dataset.events, len(dataset.items.catalogue)
    all_places = np.arange(len(events.at_ms))
    # Of a repeated key `unique` gives the first place.
    keys, first = np.unique(events.query_of(all_places) * width + dataset.event_rows(), return_index=True)
    return np.asarray(first[np.searchsorted(keys, queries * width + rows)] < stops)


def _padded(owner: IntArray, values: NDArray[Any], *, num: int) -> NDArray[Any]:
    """[num, M] the values of each owner from the left; owners ascend."""
    counts = np.bincount(owner, minlength=num)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.zeros((num, max(int(counts.max(initial=0)), 1)), dtype=values.dtype)
    padded[owner, column] = values
    return padded
