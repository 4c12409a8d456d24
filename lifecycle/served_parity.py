"""Parity of what was served: a log's features through the release at its delta, and against the prepared log.

Owns both comparisons of a served log: the lists that its features give again, and the features themselves against what
the offline path knows of that query. Models run in this process, so a log of another processor or of batches may need a
tolerance for scores; ids need none.

A store is as new as its last refresh, so served features may be some events behind the instant of the request. That is
counted and is no fault: what must agree is the state that they are of. A text that came with the request counts as it
was given.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import ParityFailed
from evaluation.parity import ParityReport
from evaluation.tally import ParityTally
from features.dataset import Dataset
from features.transforms import QueryFeatures
from lifecycle.parity import feature_columns
from serving.item_filter import ItemFilter
from serving.pipeline import Pipeline
from serving.release import Release
from serving.served_log import features_of
from serving.settings import PipelineSettings

Arrays = dict[str, NDArray[Any]]
SCORES = ("scores", "retrieval_scores", "candidate_scores", "probabilities")


@dataclass(frozen=True)
class ServedParity:
    """What a served log shows.

    Attributes:
        lists: what was served against what its features give again.
        features: what was served against the prepared log.
        num_behind: records whose features lacked events from before their request.
        num_ahead: records whose features knew events from after it, as for requests of past instants.
        left_out: records that were not compared, by reason.
    """

    lists: ParityReport
    features: ParityReport
    num_behind: int
    num_ahead: int
    left_out: Mapping[str, int]

    def check(self) -> None:
        """Raise ParityFailed if anything differs, or if nothing was compared at all."""
        failures = []
        for report in (self.lists, self.features) if self.features.fields else (self.lists,):
            try:
                report.check(float_tolerance=0.0)
            except ParityFailed as error:
                failures.append(str(error))
        if failures:
            raise ParityFailed("\n".join(failures))

    def __str__(self) -> str:
        left_out = [f"left out, {reason}: {count} records" for reason, count in sorted(self.left_out.items())]
        freshness = f"features behind their request: {self.num_behind} records, ahead of it: {self.num_ahead}"
        return "\n".join([str(self.lists), str(self.features), freshness, *left_out])


def check_served_log(
    records: Iterable[Mapping[str, Any]],
    *,
    release_dir: Path,
    settings: PipelineSettings,
    dataset: Dataset,
    score_tolerance: float = 0.0,
) -> ServedParity:
    """Compare the records that a release served.

    Args:
        records: of `serving.served_log.read_served_log`.
        release_dir: of that release, with the deltas that served.
        settings: that it was served with.
        dataset: the prepared log.
        score_tolerance: by how much a score may differ; 0 where the models ran as they run here.

    Raises:
        DeltaRefused: a delta that served is gone.
    """
    built = Release.open(release_dir, delta=0)
    again = _Again(release_dir, settings=settings, score_tolerance=score_tolerance)
    known = _Known(built, dataset=dataset)
    left_out: Counter[str] = Counter()
    for record in records:
        if record["source"] != "model":
            left_out["answered by the fallback"] += 1
        elif record["release_id"] != built.release_id:
            left_out[f"of release {record['release_id']}"] += 1
        else:
            again.add(record)
            known.add(record)
    return ServedParity(
        lists=again.tally.report,
        features=known.tally.report,
        num_behind=known.num_behind,
        num_ahead=known.num_ahead,
        left_out=left_out,
    )


class _Again:
    """The lists that served features give again."""

    def __init__(self, release_dir: Path, *, settings: PipelineSettings, score_tolerance: float) -> None:
        self.tally = ParityTally(
            columns={},
            offline_name="again",
            serving_name="served",
            tolerances=dict.fromkeys(SCORES, score_tolerance) if score_tolerance else None,
        )
        self._release_dir, self._settings = release_dir, settings
        self._pipelines: dict[tuple[int, int], Pipeline] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        answer = record["answer"]
        pipeline = self._at(int(answer["delta"]), int(answer.get("changes", 0)))
        items, candidates = answer["items"], answer["candidates"]
        only = record.get("only")  # not there in logs of before filters
        found = pipeline.recommend(
            features_of(record),
            k=len(items),
            with_candidates=True,
            only=None if only is None else ItemFilter.of(only),
        )
        served = {
            "item_ids": np.array([[item["item_id"] for item in items]], dtype=object),
            "scores": np.array([[item["score"] for item in items]], dtype=np.float32),
            "retrieval_scores": np.array([[item["retrieval_score"] for item in items]], dtype=np.float32),
            "retrieval_ranks": np.array([[item["retrieval_rank"] for item in items]], dtype=np.int64),
            # None, and NaN here, where there is none; logs of before probabilities are of releases without them.
            "probabilities": np.array([[item.get("probability") for item in items]], dtype=np.float32),
            "candidate_ids": np.array([[item_id for item_id, _ in candidates]], dtype=object),
            "candidate_scores": np.array([[score for _, score in candidates]], dtype=np.float32),
        }
        again = {
            name: np.array(getattr(found, name), dtype=array.dtype).reshape(1, -1) for name, array in served.items()
        }
        self.tally.add(offline=again, serving=served, keys=[_name(record)])

    def _at(self, delta: int, changes: int) -> Pipeline:
        if (delta, changes) not in self._pipelines:
            models = next((one.models for one in self._pipelines.values()), None)
            self._pipelines[delta, changes] = Pipeline.open(
                self._release_dir, settings=self._settings, models=models, delta=delta, changes=changes
            )
        return self._pipelines[delta, changes]


class _Known:
    """Served features against the state of the prepared log that they are of."""

    def __init__(self, release: Release, *, dataset: Dataset) -> None:
        self.tally = ParityTally(columns=feature_columns(release.spec), offline_name="prepared", serving_name="served")
        self.num_behind = self.num_ahead = 0
        self._stage1, self._dataset = release.stage1, dataset
        self._query_of = {query_id: query for query, query_id in enumerate(dataset.events.query_ids)}

    def add(self, record: Mapping[str, Any]) -> None:
        query = self._query_of.get(record["query_id"])
        if query is None:
            return
        served = features_of(record)
        requested_at_ms = np.array(served.requested_at_ms)
        stop = self._stop(query, served)
        log = self._dataset.events
        own = slice(int(log.offsets[query]), int(log.offsets[query + 1]))
        if self._stage1.spec.stored_history:
            # Events at the very instant of the request may have come before it or after.
            self.num_behind += stop < own.start + int(np.searchsorted(log.at_ms[own], requested_at_ms[0]))
            self.num_ahead += stop > own.start and int(log.at_ms[stop - 1]) > int(requested_at_ms[0])
        prepared = self._dataset.states(
            np.array([query]), np.array([stop]), requested_at_ms=requested_at_ms, length=None
        )
        self.tally.add(
            offline=self._arrays(prepared if record["text"] is None else replace(prepared, texts=[record["text"]])),
            serving=self._arrays(served),
            keys=[_name(record)],
        )

    def _stop(self, query: int, served: QueryFeatures) -> int:
        """Place in the log after the last event that the served history holds."""
        log, history, at_ms = self._dataset.events, served.history_item_ids[0], served.history_at_ms[0]
        start, end = int(log.offsets[query]), int(log.offsets[query + 1])
        if not history:
            return start
        first, last = (int(np.searchsorted(log.at_ms[start:end], at_ms[-1], side=side)) for side in ("left", "right"))
        # Of events at one instant the history says which was the last.
        for stop in range(start + last, start + first, -1):
            if list(log.item_ids[max(start, stop - len(history)) : stop]) == history:
                return stop
        return start + last

    def _arrays(self, features: QueryFeatures) -> Arrays:
        inputs = self._stage1.query_inputs(features)
        return {field.name: getattr(inputs, field.name) for field in fields(inputs)}


def _name(record: Mapping[str, Any]) -> str:
    return f"request {record['request_id']} of query {record['query_id']}"
