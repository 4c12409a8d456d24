"""How the retrievers are fused: weights fitted on what validation requests chose, quotas by configuration.

Owns which requests decide. They are the fold's, which has not seen them; the refit takes the same weights, for nothing
that it does not know is left to fit its own on but the test.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.vocab import PADDING
from lifecycle.candidates import StageOne
from towers.retrievers.fusion import Fusion
from towers.retrievers.fusion_fit import NothingToFit, ascend, fit_weights

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
        rows, seen = requests.candidates.rows, requests.inputs.seen_rows
        union = _Union(
            scores=requests.candidates.scores[:, :, 1:].astype(np.float64),
            present=rows != PADDING,
            had=np.stack([np.isin(own, known_to) for own, known_to in zip(rows, seen, strict=True)]),
            relevant=asked.grades_of(rows) > 0,
            num_relevant=asked.num_relevant,
            num_new=((asked.relevant != PADDING) & ~asked.had).sum(axis=1),
        )
        found = union.relevant.sum(axis=1) / np.maximum(asked.num_relevant, 1)
        logger.info("fusion: the unions of %d requests hold %.3f of what was chosen", len(asked), found.mean())
        return self._of_union(union, even)

    def _of_union(self, union: "_Union", even: Fusion) -> Fusion:
        names, new = list(even.quotas), union.present & ~union.had
        try:
            weights = union.fit(union.scores, present=new, num_relevant=union.num_new, what="new items")
        except NothingToFit as error:
            logger.warning("fusion: all retrievers weigh alike (%s)", error)
            return even
        fusion = Fusion(weights=dict(zip(names, weights.tolist(), strict=True)), quotas=even.quotas)
        had = (union.present & union.had)[:, :, None].astype(np.float64)
        if not had.any():
            return fusion
        # The order of new items is settled; against them stands what was had, by weights and a bonus of its own.
        settled = (union.scores @ weights)[:, :, None] * new[:, :, None]
        columns = np.concatenate([union.scores * had, settled, had, -had], axis=2)
        *again, scale, more, less = union.fit(
            columns, present=union.present, num_relevant=union.num_relevant, what="items had before, new, bonus"
        )
        if not scale > 0:
            logger.warning("fusion: nothing new was chosen before something old, so all of it weighs alike")
            return fusion
        return replace(
            fusion,
            again=dict(zip(names, (float(weight / scale) for weight in again), strict=True)),
            again_bonus=float((more - less) / scale),
        )


@dataclass(frozen=True, eq=False)
class _Union:
    """What N requests get of all retrievers, C candidates each.

    Attributes:
        scores: [N, C, K].
        present: [N, C] where there is a candidate.
        had: [N, C] what the query had before.
        relevant: [N, C] what it then chose.
        num_relevant: [N] all that it chose; num_new: of these, what it had not had.
    """

    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    had: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    num_relevant: NDArray[np.int64]
    num_new: NDArray[np.int64]

    def fit(
        self,
        columns: NDArray[np.float64],
        *,
        present: NDArray[np.bool_],
        num_relevant: NDArray[np.int64],
        what: str,
    ) -> NDArray[np.float64]:
        """Weights of columns [N, C, J] under which what was chosen of the candidates present leads these.

        Raises:
            NothingToFit: no request says anything.
        """
        relevant = self.relevant & present
        owners, places = np.nonzero(present)
        weights = fit_weights(columns[owners, places], relevant=relevant[owners, places], owners=owners)
        measure = _Ndcg(present=present, relevant=relevant, num_relevant=num_relevant)
        before, weights = measure(columns @ weights), ascend(weights, columns, measure=measure)
        logger.info(
            "fusion: weights of %s: %s; NDCG@%d %.4f, of the convex fit %.4f",
            *(what, " ".join(f"{weight:.3g}" for weight in weights), K),
            *(measure(columns @ weights).mean(), before.mean()),
        )
        return weights


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
