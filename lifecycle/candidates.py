"""Lists for the ranker: candidates that stage 1 of a cut gives for held-out events, with features at that time.

Owns the join of serving/retrieval.py with labels. The candidates are out of fold when the cut has not seen the events.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from features.dataset import Dataset
from features.statistics import ItemStatistics
from features.transforms import QueryInputs, query_inputs, ranker_inputs
from lifecycle.cuts import Cut
from ranking.data import RankerLists
from serving.models import OnnxModels
from serving.retrieval import QUERY_TOWER_FILE, Candidates, Stage1

logger = logging.getLogger(__name__)

BATCH_SIZE = 128


@dataclass(frozen=True)
class Requests:
    """Held-out events as requests: what stage 1 answered, and what was then chosen.

    Attributes:
        places: [N] place of each event in the log.
        inputs: of the queries strictly before their event.
        candidates: C a query.
        targets: [N] ItemRow that was chosen.
    """

    places: NDArray[np.int64]
    inputs: QueryInputs
    candidates: Candidates
    targets: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> "Requests":
        """Some of the requests."""
        return Requests(
            places=self.places[places],
            inputs=self.inputs.take(places),
            candidates=Candidates(rows=self.candidates.rows[places], scores=self.candidates.scores[places]),
            targets=self.targets[places],
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

    def ask(self, dataset: Dataset, places: NDArray[np.int64], *, num_candidates: int) -> Requests:
        """Retrieve for events of the log, each from its query's state strictly before it."""
        inputs = query_inputs(
            dataset.before(places, length=None),
            spec=self.stage1.spec,
            vocabularies=self.stage1.vocabularies,
            catalogue=self.stage1.catalogue,
        )
        embeddings = self.stage1.embed(inputs, models=self.models)
        candidates = self.stage1.retrieve(inputs, embeddings, num_candidates=num_candidates)
        return Requests(places=places, inputs=inputs, candidates=candidates, targets=dataset.event_rows()[places])

    def lists(
        self, dataset: Dataset, requests: Requests, *, num_ranked: int, relevance: Mapping[int, float]
    ) -> RankerLists:
        """The first `num_ranked` candidates of each request with features as of its refresh tick.

        Args:
            dataset: the log and its daily item counts.
            requests: answered by `ask`.
            num_ranked: C of the lists.
            relevance: graded label of the chosen item by place in the log; 1 where it is missing.
        """
        statistics = ItemStatistics.at_requests(
            dataset.days(self.cut.splits),
            requested_at_ms=requests.inputs.requested_at_ms,
            tick_ms=self.stage1.spec.tick_ms,
        )
        rows = requests.candidates.rows[:, :num_ranked]
        tokens, dense = [], []
        for start in tqdm(range(0, len(rows), BATCH_SIZE), desc=f"features of {self.cut.name} lists", unit="batch"):
            batch = slice(start, start + BATCH_SIZE)
            made = ranker_inputs(
                requests.inputs.take(batch),
                rows[batch],
                requests.candidates.scores[batch, :num_ranked],
                spec=self.stage1.spec,
                items=self.stage1.items,
                statistics=statistics,
                special_tokens=self.stage1.special_tokens,
            )
            tokens.append(made.tokens.astype(np.int32))
            dense.append(made.dense)
        grades = np.array([relevance.get(int(place), 1.0) for place in requests.places], dtype=np.float32)
        found = rows == requests.targets[:, None]
        logger.info(
            "%s: %d lists, %.1f %% hold the chosen item", self.cut.name, len(rows), 100 * found.any(axis=1).mean()
        )
        return RankerLists(
            candidate_rows=rows,
            tokens=np.concatenate(tokens),
            dense=np.concatenate(dense),
            relevance=np.where(found, grades[:, None], 0.0).astype(np.float32),
            num_relevant=np.ones(len(rows), dtype=np.int64),
        )
