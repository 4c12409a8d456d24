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
from features.dataset import Dataset
from features.statistics import ItemDays
from features.transforms import RankerInputs
from features.vocab import FIRST
from lifecycle.candidates import Requests, StageOne
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, TEACHER
from ranking.data import RankerLists
from ranking.embedded import read_by
from ranking.export import load_ranker
from ranking.gradient_boosting import BoostedTrees
from ranking.model import Ranker
from ranking.teacher import ScoreCache, teacher_scorer
from serving.models import OnnxModels
from serving.postprocess import final_order
from serving.release import RANKER_FILE, read_item_states
from serving.retrieval import BM25, QUERY_TOWER_FILE

LIST_LENGTH = 200
BATCH_SIZE = 8

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

# Lists and whose text each item carries [R] -> scores [N, C].
Scorer = Callable[[RankerLists, IntArray], FloatArray]


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
            "fused_lightgbm": reordered(requests, trees.score(made.dense)),
            "fused_student": reordered(requests, student(made, self._text_rows)),
        }
        if self.stage_one.stage1.spec.names("item", "text"):
            text_rows = self._text_rows
            text_rows[FIRST:] = np.random.default_rng(self.seed).permutation(text_rows[FIRST:])
            shuffled = self._with_texts(text_rows).lists(requests, days=self.days, num_ranked=self.num_ranked)
            systems["fused_student_shuffled_texts"] = reordered(requests, student(shuffled, text_rows))
        return systems

    def teacher_lists(self, requests: Requests, *, dataset: Dataset, learnt_on: StageOne, cache: Path) -> RankedLists:
        """Top lists of the teacher, which takes a second a request.

        Args:
            requests: to the stage 1 of these systems.
            dataset: the log.
            learnt_on: stage 1 whose lists the teacher learnt from. Where it reads embeddings they are of these towers:
                towers that were trained anew have another space (docs/log.md).
            cache: of the teacher's scores.
        """
        lists = self.stage_one.lists(requests, days=self.days, num_ranked=self.num_ranked)
        teacher = load_ranker(self.ranker_dir / TEACHER)
        if not isinstance(teacher, Ranker):
            raise ValueError(f"{self.ranker_dir / TEACHER} holds no cross-encoder: run scripts/train_ranker.py")
        read = read_by(
            teacher,
            dataclasses.replace(lists, query_embeddings=learnt_on.embeddings(dataset, requests.asked)),
            item_embeddings=learnt_on.stage1.item_embeddings,
        )
        return reordered(
            requests, ScoreCache(cache, open_scorer=teacher_scorer).score(teacher, read.tokens, read.dense)
        )

    def _student(self) -> Scorer:
        return served_scorer(
            self.ranker_dir / STUDENT, query_tower=self.towers_dir / self.stage_one.cut.name / QUERY_TOWER_FILE
        )

    @property
    def _text_rows(self) -> IntArray:
        """[R] whose text each item carries: its own."""
        return np.arange(len(self.stage_one.stage1.items.item_id))

    def _with_texts(self, text_rows: IntArray) -> StageOne:
        """The same stage 1, but every item carries the text of another one."""
        items = self.stage_one.stage1.items
        shuffled = dataclasses.replace(
            items, title_tokens=items.title_tokens[text_rows], text_tokens=items.text_tokens[text_rows]
        )
        return dataclasses.replace(self.stage_one, stage1=dataclasses.replace(self.stage_one.stage1, items=shuffled))


def served_scorer(directory: Path, *, query_tower: Path, ranker_file: str = RANKER_FILE) -> Scorer:
    """The ranker of a directory as it is served.

    Args:
        directory: holds its ONNX file, and what it has read of items where it reads them beforehand.
        query_tower: of the same models.
        ranker_file: name of the ONNX file.
    """
    models = OnnxModels(query_tower=query_tower, ranker=directory / ranker_file, num_threads=2)
    states = read_item_states(directory)

    def score(lists: RankerLists, text_rows: IntArray) -> FloatArray:
        scores = np.zeros(lists.candidate_rows.shape, dtype=np.float32)
        for start in tqdm(range(0, len(lists), BATCH_SIZE), desc="ranker scores", unit="batch", disable=None):
            batch = slice(start, start + BATCH_SIZE)
            scores[batch] = models.ranker(as_served(lists.take(np.arange(len(lists))[batch]), text_rows, states))
        return scores

    return score


def as_served(lists: RankerLists, text_rows: IntArray, states: NDArray[np.int8] | None) -> RankerInputs:
    """What a request gives a ranker: lists whose items carry the texts of `text_rows` [R], and their states."""
    tokens = lists.tokens.astype(np.int64)
    if states is None:
        own = np.zeros((*lists.candidate_rows.shape, 1, 0), dtype=np.int8)
    else:
        own = states[text_rows[lists.candidate_rows]]
    # States are of a candidate's tokens, which end a row; what is before them is the context.
    context = tokens[:, 0, : tokens.shape[2] - own.shape[2]]
    return RankerInputs(tokens=tokens, context_tokens=context, candidate_states=own, dense=lists.dense)


def alone(name: str) -> str:
    """What a report calls a retriever without the others; plain names are those of baselines."""
    # BM25 is both: what is served is the whole of it, and checked against its own library's numbers.
    return name if name in ("towers", BM25) else f"{name}_alone"


def as_retrieved(requests: Requests) -> RankedLists:
    """The candidates in the order of retrieval."""
    found = requests.candidates
    return RankedLists(rows=found.rows[:, :LIST_LENGTH], scores=found.scores[:, :LIST_LENGTH, 0])


def reordered(requests: Requests, ranker_scores: NDArray[np.float32]) -> RankedLists:
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
