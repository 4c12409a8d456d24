"""How the retrievers are fused: weights fitted on what validation requests chose, quotas by configuration.

Owns which requests decide. They are the fold's, which has not seen them; the refit takes the same weights, for nothing
that it does not know is left to fit its own on but the test.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.vocab import PADDING
from lifecycle.candidates import StageOne
from towers.retrievers.fusion import Fusion
from towers.retrievers.fusion_fit import ascend, fit_weights

logger = logging.getLogger(__name__)

SPLIT = "validation"
K = 10  # of the NDCG


@dataclass(frozen=True)
class FusionFit:
    """How weights are fitted; conf/retrieval/*.yaml fills it.

    Attributes:
        quotas: most candidates that each retriever brings to the union; one that a spec does not have is left out.
        max_requests: spread over the validation requests, where there are more.
    """

    quotas: Mapping[str, int]
    max_requests: int

    def unweighted(self, retrievers: Sequence[str]) -> Fusion:
        """Of these retrievers, every one by its own scale.

        Raises:
            ValueError: one of them has no quota.
        """
        if missing := [name for name in retrievers if name not in self.quotas]:
            raise ValueError(
                f"retrieval.quotas: expected a number for each of {', '.join(retrievers)}; {', '.join(missing)} "
                "is missing, where 0 would have it bring nothing"
            )
        return Fusion.unweighted({name: self.quotas[name] for name in retrievers})

    def fit(self, stage_one: StageOne, *, dataset: Dataset, protocol: RequestProtocol) -> Fusion:
        """Weights under which what the requests chose leads their unions; all alike where they chose nothing of it."""
        even = self.unweighted(stage_one.stage1.retrievers)
        known = stage_one.cut.splits
        asked = protocol.looked_for(
            protocol.asked(dataset, SPLIT), recommendable=protocol.recommendable(dataset, known)
        )
        asked = asked.take(slice(None, None, max(-(-len(asked) // self.max_requests), 1)))
        if not len(asked):
            logger.warning("fusion: all retrievers weigh alike, for %s asks for nothing", SPLIT)
            return even
        requests = stage_one.fused_by(even).ask(
            dataset, asked, days=protocol.item_days(dataset, known), num_candidates=sum(even.quotas.values())
        )
        rows = requests.candidates.rows
        owners, places = np.nonzero(rows != PADDING)
        relevant = asked.grades_of(rows) > 0
        found = relevant.sum(axis=1) / np.maximum(asked.num_relevant, 1)
        logger.info("fusion: the unions of %d requests hold %.3f of what was chosen", len(asked), found.mean())
        try:
            weights = fit_weights(
                requests.candidates.scores[owners, places, 1:].astype(np.float64),
                relevant=relevant[owners, places],
                owners=owners,
            )
        except ValueError as error:
            logger.warning("fusion: all retrievers weigh alike (%s)", error)
            return even
        measure = _Ndcg(present=rows != PADDING, relevant=relevant, num_relevant=asked.num_relevant)
        scores = requests.candidates.scores[:, :, 1:].astype(np.float64)
        before, weights = measure(scores @ weights), ascend(weights, scores, measure=measure)
        fitted = dict(zip(even.quotas, weights.tolist(), strict=True))
        logger.info(
            "fusion: weights %s; NDCG@%d %.4f, of the convex fit %.4f",
            *(", ".join(f"{name} {weight:.3g}" for name, weight in fitted.items()), K),
            *(measure(scores @ weights).mean(), before.mean()),
        )
        return Fusion(weights=fitted, quotas=even.quotas)


@dataclass(frozen=True)
class _Ndcg:
    """NDCG@K of fused scores [N, C], binary gains.

    Attributes:
        present: [N, C] where there is a candidate.
        relevant: [N, C] which of them were chosen.
        num_relevant: [N] chosen by each request, in the union or not.
    """

    present: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    num_relevant: NDArray[np.int64]

    def __call__(self, fused: NDArray[np.float64]) -> NDArray[np.float64]:
        k = min(K, fused.shape[1])
        scores = np.where(self.present, -fused, np.inf)
        first = np.argpartition(scores, k - 1, axis=1)[:, :k]
        first = np.take_along_axis(first, np.argsort(np.take_along_axis(scores, first, axis=1), axis=1), axis=1)
        discounts = 1.0 / np.log2(np.arange(2, k + 2))
        gains = (np.take_along_axis(self.relevant, first, axis=1) * discounts).sum(axis=1)
        ideal = np.r_[0.0, np.cumsum(discounts)][np.minimum(self.num_relevant, k)]
        return np.asarray(gains / np.maximum(ideal, 1e-12))
