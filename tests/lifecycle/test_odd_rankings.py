"""Whatever a ranker is given, it gives a defined order: the student and the trees of a run, as they are served."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.text import TextTokenizer
from features.transforms import QueryFeatures, RankerInputs
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT
from ranking.decomposed import DecomposedRanker
from ranking.export import load_ranker
from serving.models import OnnxModels
from serving.pipeline import Pipeline
from serving.postprocess import final_order
from serving.release import RANKER_FILE

pytestmark = pytest.mark.timeout(600)

TEXTS = {
    "empty": "",
    "100 kB": "the long film " * 7500,
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u0645\u0631\u062d\u0628\u0627",
    "emoji": "\U0001f3ac\U0001f37f \U0001f9d1\u200d\U0001f680",
    "control characters": "a\x00b\x07\ufffd\ud7ff",
}


@pytest.fixture(scope="module", params=[STUDENT, GRADIENT_BOOSTING])
def models(request: pytest.FixtureRequest, smoke_run: Path, smoke_pipeline: Pipeline) -> OnnxModels:
    demo = smoke_run / "demo"
    return OnnxModels(
        query_tower=smoke_pipeline.release.path / "query_tower.onnx",
        ranker=demo / "ranker" / request.param / RANKER_FILE,
    )


def inputs_of(pipeline: Pipeline, smoke_run: Path, texts: list[str], *, num_candidates: int) -> RankerInputs:
    """Candidates of these texts, again and again, for a query that says nothing and did nothing."""
    stage1 = pipeline.release.stage1
    student = load_ranker(smoke_run / "demo" / "ranker" / STUDENT)
    assert isinstance(student, DecomposedRanker)
    tokenizer: TextTokenizer = stage1.tokenizer
    layout = stage1.spec.text
    cls, sep = stage1.special_tokens
    rows = np.full((num_candidates, layout.length), tokenizer.pad, dtype=np.int64)
    rows[:, 0], rows[:, layout.context_tokens + 1], rows[:, -1] = cls, sep, sep
    rows[:, layout.context_tokens + 2 : -1] = np.resize(
        tokenizer.encode(texts, length=layout.candidate_tokens), (num_candidates, layout.candidate_tokens)
    )
    split = layout.context_tokens + 2
    with torch.inference_mode():
        read = student.encoder.project(student.encoder.read_candidates(torch.from_numpy(rows[:, split:])))
        states = student.encoder.as_int8(read).numpy()
    dense = np.random.default_rng(0).normal(size=(num_candidates, len(stage1.spec.names("ranker", "number"))))
    return RankerInputs(
        tokens=rows[None],
        context_tokens=rows[None, 0, :split],
        candidate_states=states[None],
        dense=dense[None].astype(np.float32),
    )


def check_order(scores: NDArray[np.float32], num_candidates: int) -> None:
    assert scores.shape == (1, num_candidates)
    assert np.isfinite(scores).all()
    order = final_order(np.arange(2, num_candidates + 2)[None], scores, k=num_candidates)[0]
    assert sorted(order.tolist()) == list(range(num_candidates))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_has_a_score(models: OnnxModels, smoke_pipeline: Pipeline, smoke_run: Path, text: str) -> None:
    inputs = inputs_of(smoke_pipeline, smoke_run, [text, "an honest film"], num_candidates=4)
    check_order(models.ranker(inputs), 4)


@pytest.mark.parametrize("num_candidates", [1, 1000])
def test_any_number_of_candidates_is_ordered(
    models: OnnxModels, smoke_pipeline: Pipeline, smoke_run: Path, num_candidates: int
) -> None:
    inputs = inputs_of(smoke_pipeline, smoke_run, ["one film", "another"], num_candidates=num_candidates)
    check_order(models.ranker(inputs), num_candidates)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_a_feature_that_is_no_number_has_a_score(
    models: OnnxModels, smoke_pipeline: Pipeline, smoke_run: Path, odd: float
) -> None:
    inputs = inputs_of(smoke_pipeline, smoke_run, ["one film"], num_candidates=3)
    inputs.dense[0, 1] = odd
    inputs.dense[0, 2, ::2] = odd
    check_order(models.ranker(inputs), 3)


def test_a_query_without_a_history_gets_a_list(smoke_pipeline: Pipeline) -> None:
    spec = smoke_pipeline.release.spec
    nobody = QueryFeatures(
        history_item_ids=[[]],
        history_events=[[]],
        history_values=[[]],
        history_at_ms=[[]],
        texts=[""],
        categories=[["" for _ in spec.names("query", "category")]],
        numbers=[[float("nan") for _ in spec.names("query", "number", "column")]],
        requested_at_ms=[smoke_pipeline.release.tick_at_ms],
    )
    found = smoke_pipeline.recommend(nobody, k=10)
    assert len(found.item_ids[0]) == len(set(found.item_ids[0])) == 10
    assert np.isfinite(found.scores[0]).all()
    assert (np.diff(found.scores[0]) <= 0).all()
