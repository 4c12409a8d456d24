"""Lists for the ranker: candidates that stage 1 of a cut gives to past requests, with features at that time.

Owns the join of serving/retrieval.py with labels, and that each request is answered as of its own refresh tick. The
candidates are out of fold when the cut has not seen the events.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from features.dataset import Dataset
from features.requests import PastRequests
from features.statistics import ItemDays, ItemStatistics
from features.transforms import QueryInputs, ranker_inputs
from lifecycle.cuts import Cut
from ranking.data import RankerLists
from serving.candidates import Candidates
from serving.models import OnnxModels
from serving.retrieval import QUERY_TOWER_FILE, Stage1
from towers.retrievers.blend import Blend
from towers.retrievers.fusion import Fusion

logger = logging.getLogger(__name__)

BATCH_SIZE = 128
# Requests whose raw histories are held as Python lists at once: about 0.5 GB where histories have 1000 events.
ASKED_AT_ONCE = 4096


@dataclass(frozen=True)
class Requests:
    """Past requests and what stage 1 answers them.

    Attributes:
        asked: N requests with what was then chosen.
        inputs: of the queries as they asked.
        embeddings: [N, D] of these, by the towers.
        candidates: C a query.
    """

    asked: PastRequests
    inputs: QueryInputs
    embeddings: NDArray[np.float32]
    candidates: Candidates

    def __len__(self) -> int:
        return len(self.asked)

    def take(self, places: NDArray[np.int64]) -> "Requests":
        """Some of the requests."""
        return Requests(
            asked=self.asked.take(places),
            inputs=self.inputs.take(places),
            embeddings=self.embeddings[places],
            candidates=self.candidates.take(places),
        )


@dataclass(frozen=True)
class StageOne:
    """Stage 1 of one cut, opened from the directories that train_towers and build_index filled."""

    cut: Cut
    stage1: Stage1
    models: OnnxModels

    @classmethod
    def open(cls, cut: Cut, *, towers_dir: Path, index_dir: Path) -> "StageOne":
        """Open a cut."""
        directory = towers_dir / cut.name
        return cls(
            cut=cut,
            stage1=Stage1.read(directory, index_path=index_dir / f"{cut.name}.faiss"),
            models=OnnxModels(query_tower=directory / QUERY_TOWER_FILE, ranker=None, num_threads=2),
        )

    def fused_by(self, fusion: Fusion) -> "StageOne":
        """The same with the retrievers fused otherwise."""
        return replace(self, stage1=replace(self.stage1, fusion=fusion))

    def blended_by(self, blend: Blend) -> "StageOne":
        """The same with the parts of the towers' score weighed otherwise; an answer's index follows with its tick."""
        return replace(self, stage1=replace(self.stage1, blend=blend))

    def without(self, rows: NDArray[np.int64]) -> "StageOne":
        """The same without some items [P] among the candidates."""
        recommendable = self.stage1.recommendable.copy()
        recommendable[rows] = False
        return replace(self, stage1=replace(self.stage1, recommendable=recommendable))

    def ask(
        self,
        dataset: Dataset,
        asked: PastRequests,
        *,
        days: ItemDays,
        num_candidates: int,
        excluded: NDArray[np.int64] | None = None,
    ) -> Requests:
        """Retrieve for past requests.

        Args:
            dataset: the log.
            asked: N requests.
            days: daily item counts that may be known; each request sees those before its tick.
            num_candidates: C.
            excluded: [N, H] ItemRows to leave out, whatever the spec says of repeats; None leaves out what the server
                would.

        Raises:
            ValueError: `excluded` is of another number of requests.
        """
        if excluded is not None and len(excluded) != len(asked):
            raise ValueError(f"expected rows to leave out of each of {len(asked)} requests, got {len(excluded)}")
        parts = [
            self._answer(
                dataset,
                asked.take(batch),
                days=days,
                num_candidates=num_candidates,
                excluded=None if excluded is None else excluded[batch],
            )
            for batch in (slice(start, start + ASKED_AT_ONCE) for start in range(0, max(len(asked), 1), ASKED_AT_ONCE))
        ]
        candidates = Candidates(
            **{
                field.name: np.concatenate([getattr(own, field.name) for *_, own in parts])
                for field in fields(Candidates)
            }
        )
        return Requests(
            asked=asked,
            inputs=_joined([inputs for inputs, *_ in parts]),
            embeddings=np.concatenate([embeddings for _, embeddings, _ in parts]),
            candidates=candidates,
        )

    def embeddings(self, dataset: Dataset, asked: PastRequests) -> NDArray[np.float32]:
        """Of queries as they asked, by the towers [N, D]: in the space of this cut's item embeddings, of no other's."""
        return self._embedded(self._inputs(dataset, asked))[:, : self.stage1.item_embeddings.shape[1]]

    def _answer(
        self,
        dataset: Dataset,
        asked: PastRequests,
        *,
        days: ItemDays,
        num_candidates: int,
        excluded: NDArray[np.int64] | None,
    ) -> tuple[QueryInputs, NDArray[np.float32], Candidates]:
        inputs = self._inputs(dataset, asked)
        embedded = self._embedded(inputs)
        embeddings = self.stage1.blended(inputs, embedded)
        statistics = self._statistics(inputs, days=days)
        ticks = statistics.ticks(inputs.requested_at_ms)
        candidates = Candidates.none(
            len(asked), num_candidates=num_candidates, num_scores=1 + len(self.stage1.retrievers)
        )
        for tick in tqdm(np.unique(ticks), desc=f"candidates of {self.cut.name}", unit="tick", disable=None):
            own = np.flatnonzero(ticks == tick)
            found = self.stage1.as_of(statistics.at(int(tick))).retrieve(
                inputs.take(own),
                embeddings[own],
                num_candidates=num_candidates,
                excluded=None if excluded is None else excluded[own],
            )
            for field in fields(Candidates):
                getattr(candidates, field.name)[own] = getattr(found, field.name)
        return inputs, embedded[:, : self.stage1.item_embeddings.shape[1]], candidates

    def _inputs(self, dataset: Dataset, asked: PastRequests) -> QueryInputs:
        return self.stage1.query_inputs(asked.states(dataset, length=self.stage1.spec.stored_history))

    def _embedded(self, inputs: QueryInputs) -> NDArray[np.float32]:
        return self.stage1.embed_alone(inputs, models=self.models)

    def _statistics(self, inputs: QueryInputs, *, days: ItemDays) -> ItemStatistics:
        return ItemStatistics.at_requests(
            days, requested_at_ms=inputs.requested_at_ms, tick_ms=self.stage1.spec.tick_ms
        )

    def lists(self, requests: Requests, *, days: ItemDays, num_ranked: int) -> RankerLists:
        """The first `num_ranked` candidates of each request with features as of its refresh tick.

        Args:
            requests: answered by `ask`.
            days: daily item counts that may be known; each request sees those before its tick.
            num_ranked: C of the lists.
        """
        statistics = self._statistics(requests.inputs, days=days)
        candidates = requests.candidates.first(num_ranked)
        rows = candidates.rows
        tokens, dense = [], []
        for start in tqdm(range(0, len(rows), BATCH_SIZE), desc=f"features of {self.cut.name} lists", unit="batch"):
            batch = slice(start, start + BATCH_SIZE)
            made = ranker_inputs(
                requests.inputs.take(batch),
                rows[batch],
                candidates.scores[batch],
                candidates.ranks[batch],
                spec=self.stage1.spec,
                items=self.stage1.items,
                statistics=statistics,
                special_tokens=self.stage1.special_tokens,
            )
            tokens.append(made.tokens.astype(np.int32))
            dense.append(made.dense)
        relevance = requests.asked.grades_of(rows)
        holding = (relevance > 0).any(axis=1)
        logger.info("%s: %d lists, %.1f %% hold a chosen item", self.cut.name, len(rows), 100 * holding.mean())
        return RankerLists(
            candidate_rows=rows,
            tokens=np.concatenate(tokens),
            dense=np.concatenate(dense),
            relevance=relevance,
            num_relevant=requests.asked.num_relevant,
            query_embeddings=requests.embeddings,
        )


def _joined(parts: Sequence[QueryInputs]) -> QueryInputs:
    """All rows, the shorter ones of whole histories padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(QueryInputs):
        own = [getattr(part, field.name) for part in parts]
        if field.name.startswith("seen_"):
            width = max(array.shape[1] for array in own)
            own = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in own]
        arrays[field.name] = np.concatenate(own)
    return QueryInputs(**arrays)
