"""Several retrievers as one: the union of what they bring, and one score for it.

Owns which candidates of several retrievers stay and in which order, and the sum without training that a fitted one has
to beat. What a retriever's score means is its own module's; how weights are fitted is fusion_fit.py's. numpy only.
"""

# Shapes: N queries, V rows of the item table, K retrievers, P candidates in the union of one query, C that stay.

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class Answer(Protocol):
    """What one retriever says to one query."""

    def best(self, *, k: int, allowed: NDArray[np.bool_]) -> IntArray:
        """At most k of the allowed rows, best first."""
        ...

    def of(self, rows: IntArray) -> NDArray[np.float64]:
        """Score of each row, whether it was brought or not."""
        ...


@dataclass(frozen=True)
class Fusion:
    """How much each retriever counts, and how much it may bring.

    A candidate's score is the weighted sum of the retrievers' scores as they are, not standardised within the union: it
    then depends on nothing but the query and the item, so that lists of different lengths are parts of one another.

    What tells which of its old items a query has again tells little of which new one it tries, so both have weights of
    their own.

    Attributes:
        weights: by retriever.
        quotas: most candidates that each brings; 0 leaves it out, though its scores still count.
        again: weights of what the query had before, by retriever; None: the same.
        again_bonus: more for what the query had before.
    """

    weights: Mapping[str, float]
    quotas: Mapping[str, int]
    again: Mapping[str, float] | None = None
    again_bonus: float = 0.0

    @classmethod
    def unweighted(cls, quotas: Mapping[str, int]) -> Self:
        """Every retriever by its own scale: what weights are fitted on."""
        return cls(weights=dict.fromkeys(quotas, 1.0), quotas=quotas)

    def alone(self, name: str, *, quota: int) -> "Fusion":
        """One of the retrievers as if there were no other."""
        return Fusion(
            weights={own: float(own == name) for own in self.weights},
            quotas={own: quota * (own == name) for own in self.quotas},
        )

    def write(self, path: Path) -> None:
        """Write a json file."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, *, retrievers: Sequence[str]) -> Self:
        """The reverse of `write`.

        Raises:
            ValueError: it is not of these retrievers.
        """
        fusion = cls(**json.loads(path.read_text(encoding="utf-8")))
        again = fusion.weights if fusion.again is None else fusion.again
        if not list(fusion.weights) == list(again) == list(fusion.quotas) == list(retrievers):
            raise ValueError(
                f"{path}: expected a weight and a quota of {', '.join(retrievers)}; got weights of "
                f"{', '.join(fusion.weights)} and quotas of {', '.join(fusion.quotas)}; fit them again: "
                "scripts/build_index.py"
            )
        return fusion

    def fused(self, scores: NDArray[np.float64], *, had: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One score of each candidate [P] from that of each retriever [P, K]; `had` [P]: by the query, before."""
        # Sums row by row and no product of matrices: their last bits would depend on how many there are.
        fused: NDArray[np.float64] = (scores * np.array(list(self.weights.values()))).sum(axis=1)
        if self.again is None:
            return fused
        again = (scores * np.array(list(self.again.values()))).sum(axis=1) + self.again_bonus
        return np.where(had, again, fused)

    def candidates(
        self,
        answers: Mapping[str, Answer],
        *,
        allowed: NDArray[np.bool_],
        num_candidates: int,
        seen_rows: IntArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """The best of the union for one query, best first, the lower row first among equals.

        Args:
            answers: of each retriever, in the order of the columns.
            allowed: [V] which rows may be candidates.
            num_candidates: C at most.
            seen_rows: what the query had before; None: nothing.

        Returns:
            Rows [C]; scores [C, 1 + K], the fused one first; ranks [C, 1 + K], where 0 says that the retriever did not
            bring the candidate.
        """
        brought = [answer.best(k=self.quotas[name], allowed=allowed) for name, answer in answers.items()]
        rows = np.unique(np.concatenate(brought))  # [P]
        # In fp64: the last bit of a sum in fp32 depends on the order in which a processor adds.
        own = np.stack([answer.of(rows) for answer in answers.values()], axis=1)  # [P, K]
        had = np.zeros(len(rows), dtype=np.bool_) if seen_rows is None else np.isin(rows, seen_rows)
        fused = self.fused(own, had=had).astype(np.float32)
        ranks = np.zeros((len(rows), 1 + len(answers)), dtype=np.int64)
        for column, found in enumerate(brought, start=1):
            ranks[np.searchsorted(rows, found), column] = np.arange(1, len(found) + 1)
        order = np.argsort(-fused, kind="stable")[:num_candidates]
        ranks, scores = ranks[order], np.column_stack([fused, own])[order].astype(np.float32)
        ranks[:, 0] = np.arange(1, len(order) + 1)
        return rows[order], scores, ranks


def sum_standardised(scores: Sequence[FloatArray], *, allowed: NDArray[np.bool_]) -> FloatArray:
    """Sum of the scores after bringing each to mean 0 and deviation 1 over a query's allowed items: [N, V].

    A retriever that scores all items of a query alike adds nothing there.

    Args:
        scores: one finite [N, V] a retriever.
        allowed: [V] items that may be recommended; the others get 0.
    """
    total = np.zeros(scores[0].shape, dtype=np.float32)
    for one in scores:
        own = one[:, allowed]
        centred = own - own.mean(axis=1, keepdims=True)
        # Rounding leaves equal scores a tiny deviation, so equality is asked of the scores themselves.
        differ = own.max(axis=1, keepdims=True) > own.min(axis=1, keepdims=True)
        total[:, allowed] += np.divide(centred, own.std(axis=1, keepdims=True), out=np.zeros_like(own), where=differ)
    return total
