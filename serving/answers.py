"""What a query gets, the same whether Triton or this process made it.

Owns the types of an answer and the names of the stages that made it. Loaded inside Triton.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a client needs these types and neither faiss nor onnxruntime
    from serving.pipeline import Recommendations

STAGES = ("features", "query_tower", "retrieve", "ranker_inputs", "rank", "postprocess")


@dataclass(frozen=True)
class ScoredItem:
    """One place of an answer.

    Attributes:
        retrieval_rank: from 1 on, in the order of retrieval.
        probability: that it is chosen; None where the ranker did not see it, or the release has no calibration.
    """

    item_id: str
    score: float
    retrieval_score: float
    retrieval_rank: int
    probability: float | None = None


@dataclass(frozen=True)
class Answer:
    """What one query gets.

    Attributes:
        items: best first.
        candidates: what was retrieved with its score there, in that order; empty unless asked for.
        delta: number of the release's delta that it was made with; 0 for the release as built.
        stage_ms: time each stage took for the whole batch this query was in.
        changes: number of the last change of items that it was made with; 0 for the items as built.
    """

    items: tuple[ScoredItem, ...]
    candidates: tuple[tuple[str, float], ...]
    release_id: str
    delta: int
    stage_ms: Mapping[str, float]
    changes: int = 0


def answers_of(recommendations: "Recommendations") -> list[Answer]:
    """One answer for each query of a pipeline call."""
    found = recommendations
    num = len(found.item_ids)
    candidates: list[tuple[tuple[str, float], ...]] = [()] * num
    if found.candidate_ids:
        candidates = [
            tuple(zip(ids, scores.tolist(), strict=True))
            for ids, scores in zip(found.candidate_ids, found.candidate_scores, strict=True)
        ]
    return [
        Answer(
            items=tuple(
                ScoredItem(
                    item_id=item_id,
                    score=score,
                    retrieval_score=retrieved,
                    retrieval_rank=rank,
                    probability=none_if_nan(probability),
                )
                for item_id, score, retrieved, rank, probability in zip(
                    found.item_ids[n],
                    found.scores[n].tolist(),
                    found.retrieval_scores[n].tolist(),
                    found.retrieval_ranks[n].tolist(),
                    found.probabilities[n].tolist(),
                    strict=True,
                )
            ),
            candidates=candidates[n],
            release_id=found.release_id,
            delta=found.delta,
            stage_ms=found.stage_ms,
            changes=found.changes,
        )
        for n in range(num)
    ]


def none_if_nan(number: float) -> float | None:
    """NaN, which stands for a missing number in arrays, as None."""
    return None if math.isnan(number) else number
