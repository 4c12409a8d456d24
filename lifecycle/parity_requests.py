"""Events of a log as the requests of a replay: who asks when, and which candidates are ranked.

Owns the choice of candidates. Knows nothing of the paths that answer.

Shapes: N events of a round or a batch, C candidates of each, K scores of a candidate.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset, EventLog
from features.vocab import FIRST, PADDING
from serving.candidates import Candidates

NUM_RANDOM, NUM_CANDIDATES = 6, 12


class ReplayCandidates:
    """Candidates for every event of a log: the item that came, some of the query's history, random ones.

    They follow from the log and the seed alone, so that both paths and every replay rank the same.
    """

    def __init__(self, dataset: Dataset, *, num_scores: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        num_queries = len(dataset.events.query_ids)
        self._log, self._rows = dataset.events, dataset.event_rows()
        self._random = generator.integers(FIRST, len(dataset.items.catalogue), size=(num_queries, NUM_RANDOM))
        # Rounded, so that there are ties.
        scores = generator.normal(size=(num_queries, NUM_CANDIDATES, num_scores))
        self._scores = scores.round(1).astype(np.float32)
        self._ranks = generator.integers(0, NUM_CANDIDATES, size=scores.shape)

    def of(self, places: NDArray[np.int64]) -> Candidates:
        """C candidates of each; the last one is PADDING, as in a short list."""
        queries = self._log.query_of(places)
        start, random = self._log.offsets[queries], self._random[queries]
        middle = start + random[:, 0] % np.maximum(places - start, 1)
        history = np.stack([places - 1, places - 2, middle, start], axis=1)
        # Where the history is shorter a random item stands in.
        history_rows = np.where(
            (history >= start[:, None]) & (history < places[:, None]), self._rows[history], random[:, :4]
        )
        padding = np.full((len(places), 1), PADDING, dtype=np.int64)
        rows = np.concatenate([self._rows[places][:, None], history_rows, random, padding], axis=1)
        is_padding = rows[:, :, None] == PADDING
        return Candidates(
            rows=rows,
            scores=np.where(is_padding, np.float32(0.0), self._scores[queries]),
            ranks=np.where(is_padding, 0, self._ranks[queries]),
        )


@dataclass(frozen=True)
class Asked:
    """N events as requests, at most one of each query."""

    places: NDArray[np.int64]
    query_ids: list[str]
    positions: NDArray[np.int64]  # [N] in their queries' logs
    at_ms: NDArray[np.int64]
    candidates: Candidates

    @classmethod
    def of(cls, log: EventLog, places: NDArray[np.int64], *, candidates: ReplayCandidates) -> Self:
        """Events of a log."""
        queries = log.query_of(places)
        return cls(
            places=places,
            query_ids=[log.query_ids[query] for query in queries],
            positions=places - log.offsets[queries],
            at_ms=log.at_ms[places],
            candidates=candidates.of(places),
        )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def names(self) -> list[str]:
        """What to call each event in a report."""
        return [
            f"query {query_id}, event {position} (place {place})"
            for query_id, position, place in zip(self.query_ids, self.positions, self.places, strict=True)
        ]

    def take(self, chosen: NDArray[np.int64]) -> Self:
        """Some of the events."""
        return type(self)(
            places=self.places[chosen],
            query_ids=[self.query_ids[n] for n in chosen],
            positions=self.positions[chosen],
            at_ms=self.at_ms[chosen],
            candidates=self.candidates.take(chosen),
        )
