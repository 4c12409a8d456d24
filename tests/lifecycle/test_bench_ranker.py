from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.dataset import Dataset
from lifecycle.bench_ranker import widened, with_feature
from lifecycle.list_weights import list_weights
from lifecycle.plan_budget import BudgetPlan
from ranking.data import RankerLists
from serving.settings import PipelineSettings


def some_lists(*, num: int = 300, seed: int = 0) -> tuple[RankerLists, np.ndarray]:
    """Lists that choose the highest score, and these scores."""
    scores = np.random.default_rng(seed).normal(size=(num, 8)).astype(np.float32)
    lists = RankerLists(
        candidate_rows=np.full((num, 8), 2),
        tokens=np.zeros((num, 8, 2), dtype=np.int32),
        dense=scores[:, :, None],
        relevance=(scores == scores.max(axis=1, keepdims=True)).astype(np.float32),
        num_relevant=np.ones(num, dtype=np.int64),
        query_embeddings=np.zeros((num, 0), dtype=np.float32),
    )
    return lists, scores


def test_a_score_that_knows_nothing_weighs_next_to_nothing() -> None:
    lists, scores = some_lists()
    noise = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    weights = list_weights([scores, noise], lists)
    assert weights[0] > 20 * weights[1] >= 0


def test_a_score_becomes_the_last_feature() -> None:
    lists, scores = some_lists(num=2)
    dense = with_feature(lists, scores + 1).dense
    assert dense.shape == (2, 8, 2)
    np.testing.assert_array_equal(dense[:, :, 1], dense[:, :, 0] + 1)


def test_a_request_is_widened_by_its_own_candidates() -> None:
    arrays = {
        "tokens": np.arange(6).reshape(1, 3, 2),
        "context_tokens": np.array([[7, 8]]),
        "candidate_states": np.zeros((1, 3, 4, 5), dtype=np.int8),
        "dense": np.ones((1, 3, 2), dtype=np.float32),
    }
    wide = widened(arrays, 5)
    assert wide["tokens"][0].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert wide["context_tokens"].tolist() == [[7, 8]]
    assert wide["candidate_states"].shape == (1, 5, 4, 5)
    assert wide["dense"].shape == (1, 5, 2)


@pytest.fixture
def frontier(tmp_path: Path) -> Path:
    own = {"precision": "fp32", "low": 0.1, "high": 0.3, "cpu_ms_50": 5.0, "cpu_ms_100": 10.0}
    rows = [
        {"ranker": "fused", "num_reordered": 0, "ndcg@10": 0.10, "served_by": "", **own},
        {"ranker": "dear", "num_reordered": 100, "ndcg@10": 0.2, "served_by": "ranker/student=dear", **own},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "frontier.csv", index=False)
    return tmp_path


def plan(bench_dir: Path, smoke_run: Path, dataset: Dataset) -> BudgetPlan:
    return BudgetPlan(
        bench_dir=bench_dir,
        release_dir=smoke_run / "demo" / "release",
        settings=PipelineSettings(num_candidates=100, num_ranked=50),
        dataset=dataset,
    )


@pytest.mark.timeout(600)
def test_a_plan_pays_for_the_other_stages_first(smoke_run: Path, smoke_dataset: Dataset, frontier: Path) -> None:
    page = plan(frontier, smoke_run, smoke_dataset).page(latency_ms=10_000.0, num_shown=1)
    assert "retrieve" in page
    assert "rank " not in page
    assert page.splitlines()[-1].split() == ["dear", "100", "10.0", "0.200", "(0.100-0.300)", "ranker/student=dear"]


@pytest.mark.timeout(600)
def test_a_budget_that_pays_for_nothing_says_what_to_do(
    smoke_run: Path, smoke_dataset: Dataset, frontier: Path
) -> None:
    with pytest.raises(ValueError, match=r"more than latency_ms=0\.001: retrieve fewer candidates"):
        plan(frontier, smoke_run, smoke_dataset).page(latency_ms=0.001, num_shown=1)


@pytest.mark.timeout(600)
def test_a_budget_that_pays_for_no_ranker_says_so(smoke_run: Path, smoke_dataset: Dataset, frontier: Path) -> None:
    table = pd.read_csv(frontier / "frontier.csv")
    table.assign(cpu_ms_100=1e9).to_csv(frontier / "frontier.csv", index=False)
    with pytest.raises(ValueError, match=r"no ranker of .*frontier\.csv fits the \d"):
        plan(frontier, smoke_run, smoke_dataset).page(latency_ms=10_000.0, num_shown=1)


def test_a_plan_without_a_bench_is_refused(smoke_run: Path, smoke_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frontier\.csv is missing: run scripts/bench_ranker\.py"):
        plan(tmp_path, smoke_run, smoke_dataset).page(latency_ms=30.0, num_shown=1)
