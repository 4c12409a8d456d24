import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.candidates import StageOne
from lifecycle.cuts import CUTS, FOLD
from lifecycle.fit_fusion import FusionFit, _Union
from serving.retrieval import RETRIEVERS, Stage1
from towers.retrievers.fusion import Fusion

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stage_one(smoke_run: Path) -> StageOne:
    return StageOne.open(FOLD, towers_dir=smoke_run / "demo" / "towers", index_dir=smoke_run / "demo" / "index")


@pytest.fixture(scope="module")
def fit(stage_one: StageOne) -> FusionFit:
    """As the run's, on fewer requests."""
    return FusionFit(quotas=stage_one.stage1.fusion.quotas, max_requests=100)


def without(dataset: Dataset, split: str) -> Dataset:
    """The same log, in which nobody chose anything in a split."""
    events = dataset.events
    relevance = np.where(events.splits == split, 0.0, events.relevance)
    return dataclasses.replace(dataset, events=dataclasses.replace(events, relevance=relevance))


def test_both_cuts_and_the_release_have_the_weights_that_the_fold_was_given(
    smoke_run: Path, stage_one: StageOne
) -> None:
    demo = smoke_run / "demo"
    stages = [Stage1.read(demo / "towers" / cut.name, index_path=demo / "index" / f"{cut.name}.faiss") for cut in CUTS]
    for stage1 in (*stages, Stage1.read(demo / "release")):
        assert stage1.fusion == stage_one.stage1.fusion
    weights = stage_one.stage1.fusion.weights
    assert tuple(weights) == RETRIEVERS
    assert all(weight >= 0 for weight in weights.values())
    assert weights["transitions"] > 0  # which found most of what this set's towers of two epochs do not
    assert weights["repeats"] == weights["recent_repeats"] == 0.0  # nothing is repeated


def test_fitted_weights_put_more_of_what_was_chosen_in_front(
    stage_one: StageOne, smoke_dataset: Dataset, leave_one_out: RequestProtocol, fit: FusionFit
) -> None:
    asked = leave_one_out.asked(smoke_dataset, "ranking").take(slice(0, 2000, 10))  # that the weights did not see
    days = leave_one_out.item_days(smoke_dataset, FOLD.splits)

    def found(fusion: Fusion) -> float:
        requests = stage_one.fused_by(fusion).ask(smoke_dataset, asked, days=days, num_candidates=20)
        return float((asked.grades_of(requests.candidates.rows) > 0).any(axis=1).mean())

    fitted = fit.fit(stage_one, dataset=smoke_dataset, protocol=leave_one_out)
    assert found(fitted) > found(Fusion.unweighted(fit.quotas))
    assert found(fitted) > found(fitted.alone("popularity", quota=200))


def test_what_the_test_split_chose_has_no_say(
    stage_one: StageOne, smoke_dataset: Dataset, leave_one_out: RequestProtocol, fit: FusionFit
) -> None:
    fitted = fit.fit(stage_one, dataset=smoke_dataset, protocol=leave_one_out)
    assert fit.fit(stage_one, dataset=without(smoke_dataset, "test"), protocol=leave_one_out) == fitted


def test_without_validation_all_weigh_alike_and_the_log_says_so(
    stage_one: StageOne,
    smoke_dataset: Dataset,
    leave_one_out: RequestProtocol,
    fit: FusionFit,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        fitted = fit.fit(stage_one, dataset=without(smoke_dataset, "validation"), protocol=leave_one_out)
    assert set(fitted.weights.values()) == {1.0}
    assert "all retrievers weigh alike" in caplog.text


def a_union(*, num: int = 400, seed: int = 0) -> _Union:
    """Requests of 12 candidates, the first half had before: one retriever tells these, another the new ones."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(num, 12, 2))
    had = np.tile(np.arange(12) < 6, (num, 1))
    relevant = np.zeros((num, 12), dtype=bool)
    relevant[np.arange(num), np.where(had, scores[:, :, 0], -np.inf).argmax(axis=1)] = True
    relevant[np.arange(num), np.where(had, -np.inf, scores[:, :, 1]).argmax(axis=1)] = True
    return _Union(
        scores=scores,
        present=np.ones((num, 12), dtype=bool),
        had=had,
        relevant=relevant,
        num_relevant=np.full(num, 2),
        num_new=np.ones(num, dtype=np.int64),
    )


def test_old_and_new_items_are_told_by_what_tells_each() -> None:
    fitting = FusionFit(quotas={"old": 9, "new": 9}, max_requests=100)
    fusion = fitting._of_union(a_union(), Fusion.unweighted(fitting.quotas))
    assert fusion.again is not None
    assert fusion.weights["new"] > 20 * fusion.weights["old"] >= 0
    assert fusion.again["old"] > 20 * fusion.again["new"] >= 0


def test_where_nothing_was_had_before_there_is_one_set_of_weights() -> None:
    fitting, union = FusionFit(quotas={"old": 9, "new": 9}, max_requests=100), a_union()
    nothing = dataclasses.replace(union, had=np.zeros_like(union.had), num_new=union.num_relevant)
    fusion = fitting._of_union(nothing, Fusion.unweighted(fitting.quotas))
    assert fusion.again is None
    assert fusion.again_bonus == 0.0
    assert min(fusion.weights.values()) > 0


def test_a_retriever_without_a_quota_is_missed_by_name_and_others_are_left_out() -> None:
    fit = FusionFit(quotas={"towers": 9, "ease": 0, "bm25": 5}, max_requests=1)
    assert fit.unweighted(["towers", "ease"]) == Fusion.unweighted({"towers": 9, "ease": 0})
    with pytest.raises(
        ValueError, match=r"retrieval\.quotas: expected a number for each of towers, repeats; repeats is m"
    ):
        fit.unweighted(["towers", "repeats"])
