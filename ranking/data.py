"""Lists for stage 2: candidates of past requests, of which one or more were then chosen.

Owns what a training list is. Where candidates come from is lifecycle's business: the ranker never sees an item that
stage 1 would not have shown it.

Shapes: N lists, C candidates a list, S tokens, F dense features, D width of the towers' embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankerLists:
    """N lists of C candidates in the order of retrieval.

    Attributes:
        candidate_rows: [N, C] ItemRow; 0 where there are fewer than C.
        tokens: [N, C, S] token ids.
        dense: [N, C, F] features.
        relevance: [N, C] graded label of each candidate.
        num_relevant: [N] relevant items of the request, found by stage 1 or not.
        query_embeddings: [N, D] of the requests, by the towers of the stage 1 that found the candidates.
    """

    candidate_rows: NDArray[np.int64]
    tokens: NDArray[np.int32]
    dense: NDArray[np.float32]
    relevance: NDArray[np.float32]
    num_relevant: NDArray[np.int64]
    query_embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.candidate_rows)

    @property
    def present(self) -> NDArray[np.bool_]:
        """[N, C] true where there is a candidate."""
        mask: NDArray[np.bool_] = self.candidate_rows > 0
        return mask

    def take(self, places: NDArray[np.int64]) -> "RankerLists":
        """Some of the lists."""
        return RankerLists(
            candidate_rows=self.candidate_rows[places],
            tokens=self.tokens[places],
            dense=self.dense[places],
            relevance=self.relevance[places],
            num_relevant=self.num_relevant[places],
            query_embeddings=self.query_embeddings[places],
        )

    @classmethod
    def joined(cls, parts: Sequence["RankerLists"]) -> "RankerLists":
        """All lists of some, which have the same C, S and F."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    def learnable(self) -> "RankerLists":
        """The lists with something to learn: a candidate is relevant and another one is not."""
        return self.take(self._learnable_places())

    def _learnable_places(self) -> NDArray[np.int64]:
        is_relevant = self.relevance > 0
        return np.flatnonzero(is_relevant.any(axis=1) & (self.present & ~is_relevant).any(axis=1))

    def samples(
        self, *, num_negatives: int, generator: np.random.Generator, scored: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each learnable list one of its relevant candidates and `num_negatives` others, all equally likely.

        Drawing the first of the list more often teaches that they are worse than they are (docs/log.md).

        Args:
            num_negatives: drawn for each list, without replacement where there are enough.
            generator: of the draws.
            scored: [N, C] where a teacher has scored; a list with scored candidates is drawn from those alone, the
                relevant one too, so that the teacher has scored all of the sample.

        Returns:
            Lists [P] and places of their candidates [P, 1 + num_negatives], the relevant one first.
        """
        lists = self._learnable_places()
        places = np.zeros((len(lists), 1 + num_negatives), dtype=np.int64)
        for n, number in enumerate(lists):
            relevant = np.flatnonzero(self.relevance[number] > 0)
            allowed = (self.relevance[number] <= 0) & (self.candidate_rows[number] > 0)
            if scored is not None and (allowed & scored[number]).any():
                allowed &= scored[number]
                taught = relevant[scored[number, relevant]]
                relevant = taught if len(taught) else relevant
            others = np.flatnonzero(allowed)
            places[n, 0] = generator.choice(relevant)
            places[n, 1:] = generator.choice(others, size=num_negatives, replace=len(others) < num_negatives)
        return lists, places
