"""The whole request path on one screen: features -> query tower -> candidates -> ranker -> post-process.

Owns the order of the stages and their times. A batch of requests goes through together; the models run in this process
or behind the `Models` protocol.

Which instant an answer is of: ages are as of the request, item aggregates as of the delta that the server has when it
answers. So the same request of a past instant may be answered otherwise tomorrow, as it would be in any server that
keeps what it knows now. An answer names its release, its delta and the last change of items that it knows of;
`Pipeline.open(..., delta=n, changes=m)` gives it again; lifecycle/parity.py replays a log with each tick's own delta.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.transforms import QueryFeatures, ranker_inputs
from serving.follower import ReleaseFollower
from serving.item_filter import ItemFilter
from serving.live_items import at_change
from serving.models import Models, OnnxModels
from serving.postprocess import final_order
from serving.ready_filters import ReadyFilters
from serving.release import Release
from serving.retrieval import QUERY_TOWER_FILE
from serving.settings import PipelineSettings

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Recommendations:
    """Lists for N queries, best first, and the release at the delta that made them.

    `candidate_*` are empty unless asked for; a probability is NaN where the ranker did not see the item, and everywhere
    where the release has no calibration.
    """

    item_ids: list[list[str]]
    scores: list[FloatArray]
    probabilities: list[FloatArray]
    retrieval_scores: list[FloatArray]
    retrieval_ranks: list[IntArray]
    candidate_ids: list[list[str]]
    candidate_scores: list[FloatArray]
    stage_ms: dict[str, float]
    release_id: str
    delta: int
    changes: int


class Pipeline:
    """Answers requests from one release: as it is, or with a follower at its newest delta."""

    def __init__(
        self, *, release: Release, models: Models, settings: PipelineSettings, follower: ReleaseFollower | None = None
    ) -> None:
        self.models = models
        self.settings = settings
        self._release = release
        self._follower = follower
        self._filters = ReadyFilters()

    @classmethod
    def open(
        cls,
        release_dir: Path,
        *,
        settings: PipelineSettings,
        models: Models | None = None,
        delta: int | None = None,
        changes: int = 0,
    ) -> "Pipeline":
        """Open a release.

        Args:
            release_dir: where it lies.
            settings: how much is retrieved and ranked.
            models: without them, the release's own run in this process.
            delta: stay at this one; without it, follow the newest deltas and changes of items.
            changes: with a delta, stay at this change of items.
        """
        release = Release.open(release_dir, delta=0 if changes else delta)
        if changes:
            release = at_change(release, changes)
            release = release.with_delta(release.deltas.read(delta)) if delta else release
        if models is None:
            models = OnnxModels(
                query_tower=release.path / QUERY_TOWER_FILE,
                ranker=release.ranker_path,
                num_threads=settings.num_threads,
            )
        follower = ReleaseFollower(release) if delta is None else None
        return cls(release=release, models=models, settings=settings, follower=follower)

    @property
    def release(self) -> Release:
        """What the next request is answered from."""
        return self._follower.release if self._follower else self._release

    def recommend(
        self, queries: QueryFeatures, *, k: int, with_candidates: bool = False, only: ItemFilter | None = None
    ) -> Recommendations:
        """Recommend up to k items to each of N queries, of those that pass a filter."""
        release, clock = self.release, _StageClock()  # one release for the whole call, whatever is published meanwhile
        stage1 = release.stage1
        inputs = stage1.query_inputs(queries)
        clock.end("features")
        query_embeddings = stage1.embed(inputs, models=self.models)
        clock.end("query_tower")
        filtered = None if only is None else self._filters.of(stage1, only)
        candidates = stage1.retrieve(
            inputs,
            query_embeddings,
            num_candidates=self.settings.num_candidates,
            only=None if filtered is None else (filtered.allowed, filtered.ready.index),
        )
        clock.end("retrieve")
        ranked = candidates.first(self.settings.num_ranked)
        ranker_in = ranker_inputs(
            inputs,
            ranked.rows,
            ranked.scores,
            ranked.ranks,
            spec=stage1.spec,
            items=stage1.items,
            statistics=stage1.statistics,
            special_tokens=stage1.special_tokens,
            item_states=release.item_states,
        )
        clock.end("ranker_inputs")
        ranker_scores = self.models.ranker(ranker_in)
        clock.end("rank")
        orders = final_order(candidates.rows, ranker_scores, k=k)
        item_id, retrieval_scores = stage1.catalogue.item_id, candidates.scores[:, :, 0]
        # What the ranker did not see keeps its place behind the ranked, below the worst of them.
        below = np.arange(1, candidates.rows.shape[1] - ranker_scores.shape[1] + 1, dtype=np.float32)
        lowest = np.min(ranker_scores, axis=1, keepdims=True, where=np.isfinite(ranker_scores), initial=np.inf)
        unseen_scores = np.where(np.isfinite(lowest), lowest, 0.0) - below
        scores = np.concatenate([ranker_scores, unseen_scores], axis=1)
        probabilities = np.full(scores.shape, np.nan, dtype=np.float32)
        if release.calibration is not None:
            probabilities[:, : ranker_scores.shape[1]] = release.calibration.probabilities(ranker_scores)
        lists = Recommendations(
            item_ids=[
                [item_id(int(row)) for row in rows[order]] for rows, order in zip(candidates.rows, orders, strict=True)
            ],
            scores=[own[order] for own, order in zip(scores, orders, strict=True)],
            probabilities=[own[order] for own, order in zip(probabilities, orders, strict=True)],
            retrieval_scores=[own[order] for own, order in zip(retrieval_scores, orders, strict=True)],
            retrieval_ranks=[order + 1 for order in orders],
            candidate_ids=[[item_id(int(row)) for row in rows if row] for rows in candidates.rows]
            if with_candidates
            else [],
            candidate_scores=[own[rows > 0] for own, rows in zip(retrieval_scores, candidates.rows, strict=True)]
            if with_candidates
            else [],
            stage_ms=clock.stage_ms,
            release_id=release.release_id,
            delta=release.delta,
            changes=release.changes,
        )
        clock.end("postprocess")
        return lists


class _StageClock:
    """Milliseconds of each stage of one call."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        now = time.perf_counter()
        self.stage_ms[stage] = (now - self._last) * 1000.0
        self._last = now
