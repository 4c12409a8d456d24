"""Parity: the same events through the offline path and through the online one give the same arrays and lists.

Owns which events are replayed and in which order. The paths are parity_paths.py's, the comparison is
evaluation/tally.py's, and what was served for real is served_parity.py's.

A round takes one event of each query: the first of those that are replayed, then the second, and so on. In a round the
store holds each query's state right before its event; the requests go by tick, each with its tick's delta applied. So
every event is asked as it would have been then, and what comes after it is nowhere to be seen.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.parity import ParityReport
from evaluation.tally import ParityTally
from features.context import CONTEXT
from features.dataset import Dataset, EventLog
from features.spec import FeatureSpec
from lifecycle.parity_paths import Lists, OfflinePath, OnlinePath
from lifecycle.parity_requests import Asked, ReplayCandidates
from serving.retrieval import Stage1

LISTED_EVENTS = 128


@dataclass(frozen=True)
class Replay:
    """What is replayed, and against what.

    Attributes:
        dataset: the log and the catalogue.
        data_dir: what prepare_data wrote; the store's states are made of it.
        offline: stage 1 as training has it; its item aggregates are not looked at.
        release_dir: the release that is proven; it stays as it is.
        work_dir: empty; gets the rewound release, its deltas and the online store.
        seed: of the candidates.
        lists: whole lists of some events are compared too: they follow from the rest and take a hundred times as long.
    """

    dataset: Dataset
    data_dir: Path
    offline: Stage1
    release_dir: Path
    work_dir: Path
    seed: int
    lists: Lists | None = None

    def run(self, places: NDArray[np.int64]) -> ParityReport:
        """Replay events, given by their places in the log; everything must be equal to the last bit."""
        log, spec = self.dataset.events, self.offline.spec
        ticks = np.unique(log.at_ms[places] // spec.tick_ms) * spec.tick_ms
        offline = OfflinePath.open(
            self.dataset, stage1=self.offline, ticks=ticks, path=self.work_dir / "offline_statistics.npy"
        )
        num_scores = 1 + len(self.offline.retrievers)
        candidates = ReplayCandidates(self.dataset, num_scores=num_scores, seed=self.seed)
        tally = ParityTally(columns=feature_columns(spec))
        in_rounds = rounds(log, places)
        listed = slice(0, -(-LISTED_EVENTS // len(in_rounds)) if self.lists else 0)
        with (
            OnlinePath.open(
                self.dataset, data_dir=self.data_dir, release_dir=self.release_dir, ticks=ticks, work_dir=self.work_dir
            ) as online,
            tqdm(total=len(places), desc="parity replay", unit="event", disable=None) as bar,
        ):
            for of_round in in_rounds:
                asked = Asked.of(log, of_round, candidates=candidates)
                online.publish(asked)
                tally.add(offline=offline.arrays(asked), serving=online.arrays(asked), keys=asked.names)
                self._add_lists(tally, asked.take(np.arange(len(asked))[listed]), offline=offline, online=online)
                bar.update(len(asked))
        return tally.report

    def _add_lists(self, tally: ParityTally, asked: Asked, *, offline: OfflinePath, online: OnlinePath) -> None:
        if self.lists is None:
            return
        for batch in map(asked.take, online.batches(asked)):
            first = offline.lists(batch, release=online.release(batch), how=self.lists)
            tally.add(offline=first, serving=online.lists(batch, how=self.lists), keys=batch.names)


def replay_events(
    num: int | None,
    *,
    dataset: Dataset,
    data_dir: Path,
    offline: Stage1,
    release_dir: Path,
    seed: int,
    lists: Lists | None = None,
) -> ParityReport:
    """Replay `num` events spread over the log, all without a number; see `Replay` for the rest."""
    with tempfile.TemporaryDirectory(prefix="twostage-parity-") as work_dir:
        replay = Replay(
            dataset=dataset,
            data_dir=data_dir,
            offline=offline,
            release_dir=release_dir,
            work_dir=Path(work_dir),
            seed=seed,
            lists=lists,
        )
        log = dataset.events
        return replay.run(spread_events(log, num=len(log.at_ms) if num is None else num, seed=seed))


def spread_events(log: EventLog, *, num: int, seed: int) -> NDArray[np.int64]:
    """`num` events of the whole log, as many of each query as of any other that has so many; all if there are fewer."""
    num_events = len(log.at_ms)
    order = np.random.default_rng(seed).permutation(num_events)
    queries = log.query_of(order)
    by_query = np.argsort(queries, kind="stable")
    turn = np.empty(num_events, dtype=np.int64)
    turn[by_query] = np.arange(num_events) - log.offsets[queries[by_query]]
    return np.sort(order[np.argsort(turn, kind="stable")][:num])


def rounds(log: EventLog, places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Places by round: the n-th of each query's that are replayed, for n from 0 on."""
    places = np.sort(places)
    queries = log.query_of(places)
    begins = np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]])[: len(places)]
    turn = np.arange(len(places)) - np.repeat(begins, np.diff(np.r_[begins, len(places)]))
    order = np.argsort(turn, kind="stable")
    return np.split(places[order], np.flatnonzero(np.diff(turn[order])) + 1)


def feature_columns(spec: FeatureSpec) -> Mapping[str, Sequence[str]]:
    """Names of the features that arrays stack."""
    return {
        "categories": spec.names("query", "category"),
        "numbers": spec.names("query", "number", "column"),
        "context": tuple(CONTEXT),
        "ranker_dense": spec.names("ranker", "number"),
    }
