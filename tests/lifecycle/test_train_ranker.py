import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from features.dataset import Dataset
from features.requests import each_event
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, TEACHER, check_num_ranked
from ranking.data import RankerLists
from ranking.export import load_ranker
from ranking.gradient_boosting import BoostedTrees
from ranking.teacher import score_pairs

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ranker_dir(smoke_run: Path) -> Path:
    return smoke_run / "demo" / "ranker"


@pytest.fixture(scope="module")
def lists(smoke_run: Path, smoke_dataset: Dataset) -> RankerLists:
    """Five lists as the rankers learnt from."""
    demo = smoke_run / "demo"
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    asked = each_event(smoke_dataset, "ranking").take(slice(5))
    days = smoke_dataset.days(FOLD.splits)
    requests = stage_one.ask(smoke_dataset, asked, days=days, num_candidates=50)
    return stage_one.lists(requests, days=days, num_ranked=50)


def test_every_part_is_there_and_none_is_partial(ranker_dir: Path) -> None:
    names = {path.name for path in ranker_dir.iterdir()}
    assert names == {"dense", GRADIENT_BOOSTING, TEACHER, STUDENT, "training.json", "step.json"}


def test_lists_come_from_every_event_that_the_fold_does_not_know_but_the_test(
    ranker_dir: Path, smoke_dataset: Dataset
) -> None:
    facts = json.loads((ranker_dir / "training.json").read_text())
    assert facts["lists"] == len(smoke_dataset.events.places(["ranking", "validation"]))
    assert 0 < facts["learnable_lists"] < facts["lists"]
    assert sum(facts["importance"].values()) == pytest.approx(1.0)


def test_the_exported_student_scores_as_the_trained_one(ranker_dir: Path, lists: RankerLists) -> None:
    tokens, dense = lists.tokens.reshape(-1, lists.tokens.shape[-1]), lists.dense.reshape(-1, lists.dense.shape[-1])
    wanted = score_pairs(load_ranker(ranker_dir / STUDENT), tokens, dense).reshape(5, 50)
    session = onnxruntime.InferenceSession(str(ranker_dir / STUDENT / "ranker.onnx"))
    got = session.run(None, {"tokens": lists.tokens.astype(np.int64), "dense": lists.dense})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_the_exported_trees_score_as_the_trained_ones(ranker_dir: Path, lists: RankerLists) -> None:
    wanted = BoostedTrees.load(ranker_dir / GRADIENT_BOOSTING).score(lists.dense)
    session = onnxruntime.InferenceSession(str(ranker_dir / GRADIENT_BOOSTING / "ranker.onnx"))
    got = session.run(None, {"dense": lists.dense})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_teacher_and_student_read_the_text_and_the_dense_part_alone_does_not(
    ranker_dir: Path, lists: RankerLists
) -> None:
    tokens, dense = lists.tokens[0], lists.dense[0]
    other = tokens[np.random.default_rng(0).permutation(len(tokens))]
    for name, reads_text in ((TEACHER, True), (STUDENT, True), ("dense", False)):
        ranker = load_ranker(ranker_dir / name)
        differ = score_pairs(ranker, tokens, dense) != score_pairs(ranker, other, dense)
        assert differ.any() == reads_text, name


def test_the_student_is_smaller_than_its_teacher(ranker_dir: Path) -> None:
    teacher, student = (
        json.loads((ranker_dir / name / "ranker.json").read_text())["encoder"] for name in (TEACHER, STUDENT)
    )
    assert (student["num_layers"], student["width"]) == (1, 32)
    assert (teacher["num_layers"], teacher["width"]) == (6, 384)
    assert student["vocabulary"] == teacher["vocabulary"]


def test_lists_of_another_length_than_was_learnt_on_are_refused(ranker_dir: Path) -> None:
    check_num_ranked(ranker_dir, 50)
    with pytest.raises(ValueError, match=r"learnt on lists of 50 but serving\.pipeline\.num_ranked is 100; set ranker"):
        check_num_ranked(ranker_dir, 100)
