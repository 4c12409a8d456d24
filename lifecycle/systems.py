"""What each system of the release answers to past requests: lists as the server would show them.

Owns which of these systems there are: the fused retrievers, each of them alone, and the rankers. Baselines, which
score the whole catalogue and are served by nobody, are baselines.py's.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.lists import RankedLists
from features.statistics import ItemDays
from features.vocab import FIRST
from lifecycle.candidates import Requests, StageOne
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, TEACHER
from ranking.data import RankerLists
from ranking.export import load_ranker
from ranking.gradient_boosting import BoostedTrees
from ranking.teacher import ScoreCache
from serving.models import OnnxModels
from serving.postprocess import final_order
from serving.release import RANKER_FILE
from serving.retrieval import BM25, QUERY_TOWER_FILE

LIST_LENGTH = 200
BATCH_SIZE = 8

Scorer = Callable[[RankerLists], NDArray[np.float32]]


@dataclass(frozen=True)
class Systems:
    """Rankers over the candidates of one stage 1.

    Attributes:
        days: daily item counts that the rankers' features may use.
        num_ranked: candidates that a ranker re-orders.
        seed: of the shuffled texts.
    """

    stage_one: StageOne
    days: ItemDays
    towers_dir: Path
    ranker_dir: Path
    num_ranked: int
    seed: int

    def lists(self, requests: Requests) -> dict[str, RankedLists]:
        """Top lists by name of the system."""
        made = self.stage_one.lists(requests, days=self.days, num_ranked=self.num_ranked)
        trees, student = BoostedTrees.load(self.ranker_dir / GRADIENT_BOOSTING), self._student()
        systems = {
            "fused": as_retrieved(requests),
            "fused_lightgbm": _reordered(requests, trees.score(made.dense)),
            "fused_student": _reordered(requests, student(made)),
        }
        if self.stage_one.stage1.spec.names("item", "text"):
            shuffled = self._with_shuffled_texts().lists(requests, days=self.days, num_ranked=self.num_ranked)
            systems["fused_student_shuffled_texts"] = _reordered(requests, student(shuffled))
        return systems

    def teacher_lists(self, requests: Requests, *, cache: Path) -> RankedLists:
        """Top lists of the teacher, which takes a second a request."""
        lists = self.stage_one.lists(requests, days=self.days, num_ranked=self.num_ranked)
        scores = ScoreCache(cache).score(
            load_ranker(self.ranker_dir / TEACHER),
            lists.tokens.reshape(-1, lists.tokens.shape[-1]),
            lists.dense.reshape(-1, lists.dense.shape[-1]),
        )
        return _reordered(requests, scores.reshape(lists.candidate_rows.shape))

    def _student(self) -> Scorer:
        models = OnnxModels(
            query_tower=self.towers_dir / self.stage_one.cut.name / QUERY_TOWER_FILE,
            ranker=self.ranker_dir / STUDENT / RANKER_FILE,
            num_threads=2,
        )

        def score(lists: RankerLists) -> NDArray[np.float32]:
            batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(lists), BATCH_SIZE)]
            return np.concatenate(
                [
                    models.ranker(tokens=lists.tokens[batch].astype(np.int64), dense=lists.dense[batch])
                    for batch in tqdm(batches, desc="student scores", unit="batch")
                ]
            )

        return score

    def _with_shuffled_texts(self) -> StageOne:
        """The same stage 1, but every item carries the text of another one."""
        items = self.stage_one.stage1.items
        order = np.arange(len(items.item_id))
        order[FIRST:] = np.random.default_rng(self.seed).permutation(order[FIRST:])
        shuffled = dataclasses.replace(
            items, title_tokens=items.title_tokens[order], text_tokens=items.text_tokens[order]
        )
        return dataclasses.replace(self.stage_one, stage1=dataclasses.replace(self.stage_one.stage1, items=shuffled))


def alone(name: str) -> str:
    """What a report calls a retriever without the others; plain names are those of baselines."""
    # BM25 is both: what is served is the whole of it, and checked against its own library's numbers.
    return name if name in ("towers", BM25) else f"{name}_alone"


def as_retrieved(requests: Requests) -> RankedLists:
    """The candidates in the order of retrieval."""
    found = requests.candidates
    return RankedLists(rows=found.rows[:, :LIST_LENGTH], scores=found.scores[:, :LIST_LENGTH, 0])


def _reordered(requests: Requests, ranker_scores: NDArray[np.float32]) -> RankedLists:
    """Top lists as the server would show them; the score is what orders them, falling from the list's length."""
    rows = np.zeros((len(ranker_scores), LIST_LENGTH), dtype=np.int64)
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    orders = final_order(requests.candidates.rows, ranker_scores, k=LIST_LENGTH)
    for n, order in enumerate(orders):
        rows[n, : len(order)] = requests.candidates.rows[n, order]
        ranked = order < ranker_scores.shape[1]
        below = ranker_scores[n].min() - 1.0 - np.arange(len(order), dtype=np.float32)
        scores[n, : len(order)] = np.where(
            ranked, ranker_scores[n, np.minimum(order, ranker_scores.shape[1] - 1)], below
        )
    return RankedLists(rows=rows, scores=scores)
