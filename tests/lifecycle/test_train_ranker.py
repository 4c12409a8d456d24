import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from features.dataset import Dataset
from features.requests import PastRequests, each_event
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.export_parity import scorer_of
from lifecycle.systems import as_served
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, TEACHER, calibrate, check_num_ranked
from ranking.data import RankerLists
from ranking.decomposed import DecomposedRanker
from ranking.export import load_ranker
from ranking.gradient_boosting import BoostedTrees
from ranking.runtime.calibration import Calibration
from ranking.scoring import scores_by_part
from serving.release import read_item_states

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ranker_dir(smoke_run: Path) -> Path:
    return smoke_run / "demo" / "ranker"


@pytest.fixture(scope="module")
def lists(smoke_run: Path, smoke_dataset: Dataset) -> RankerLists:
    """Five lists as the rankers learnt from."""
    return lists_of(each_event(smoke_dataset, "ranking").take(slice(5)), dataset=smoke_dataset, demo=smoke_run / "demo")


@pytest.fixture(scope="module")
def validation(smoke_run: Path, smoke_dataset: Dataset) -> RankerLists:
    """All lists of validation."""
    return lists_of(each_event(smoke_dataset, "validation"), dataset=smoke_dataset, demo=smoke_run / "demo")


def lists_of(asked: PastRequests, *, dataset: Dataset, demo: Path) -> RankerLists:
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    days = dataset.days(FOLD.splits)
    requests = stage_one.ask(dataset, asked, days=days, num_candidates=50)
    return stage_one.lists(requests, days=days, num_ranked=50)


def test_every_part_is_there_and_none_is_partial(ranker_dir: Path) -> None:
    names = {path.name for path in ranker_dir.iterdir()}
    assert names == {"dense", GRADIENT_BOOSTING, TEACHER, STUDENT, "training.json", "step.json"}


def test_lists_come_from_every_event_of_the_split_for_ranking(ranker_dir: Path, smoke_dataset: Dataset) -> None:
    facts = json.loads((ranker_dir / "training.json").read_text())
    assert facts["lists"] == len(smoke_dataset.events.places(["ranking"]))
    assert 0 < facts["learnable_lists"] < facts["lists"]
    assert sum(facts["importance"].values()) == pytest.approx(1.0)


def test_the_exported_student_scores_as_the_trained_one(ranker_dir: Path, lists: RankerLists) -> None:
    student = load_ranker(ranker_dir / STUDENT)
    assert isinstance(student, DecomposedRanker)
    states = read_item_states(ranker_dir / STUDENT)
    assert states is not None
    inputs = as_served(lists, np.arange(len(states)), states)
    assert inputs.context_tokens.shape[1] == student.encoder.num_context_tokens
    session = onnxruntime.InferenceSession(str(ranker_dir / STUDENT / "ranker.onnx"))
    got = session.run(None, {entry.name: inputs.by_name[entry.name] for entry in session.get_inputs()})[0]
    np.testing.assert_allclose(got, scorer_of(student)(inputs), atol=1e-4)
    # int8 is all that what was trained does not have
    np.testing.assert_allclose(got, sum(scores_by_part(student, lists)), atol=0.05)


def test_another_text_than_was_read_of_an_item_is_noticed(ranker_dir: Path, lists: RankerLists) -> None:
    student = load_ranker(ranker_dir / STUDENT)
    states = read_item_states(ranker_dir / STUDENT)
    assert states is not None
    inputs = as_served(lists, np.arange(len(states)), states[:, ::-1])
    with pytest.raises(ValueError, match="of 250 candidates have another text than was read of them"):
        scorer_of(student)(inputs)


def test_the_exported_trees_score_as_the_trained_ones(ranker_dir: Path, lists: RankerLists) -> None:
    wanted = BoostedTrees.load(ranker_dir / GRADIENT_BOOSTING).score(lists.dense)
    session = onnxruntime.InferenceSession(str(ranker_dir / GRADIENT_BOOSTING / "ranker.onnx"))
    got = session.run(None, {"dense": lists.dense})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_the_teacher_reads_the_text_and_the_dense_part_alone_does_not(ranker_dir: Path, lists: RankerLists) -> None:
    for name, reads_text in ((TEACHER, True), ("dense", False)):
        text_part = scores_by_part(load_ranker(ranker_dir / name), lists.take(np.arange(1)))[1]
        assert text_part.any() == reads_text, name


@pytest.mark.parametrize("name", [GRADIENT_BOOSTING, STUDENT])
def test_what_can_be_released_promises_as_much_as_is_chosen_on_validation(
    name: str, ranker_dir: Path, validation: RankerLists
) -> None:
    if name == GRADIENT_BOOSTING:
        scores = BoostedTrees.load(ranker_dir / name).score(validation.dense)
    else:
        scores = np.add(*scores_by_part(load_ranker(ranker_dir / name), validation))
    probabilities = Calibration.read(ranker_dir / name / "calibration.json").probabilities(scores)[validation.present]
    chosen = validation.relevance[validation.present] > 0
    # A line of highest likelihood has the mean of what it was fitted on, and tells apart what was chosen.
    assert probabilities.mean() == pytest.approx(chosen.mean(), rel=0.02)
    assert probabilities[chosen].mean() > 1.2 * probabilities[~chosen].mean()


def test_lists_in_which_nothing_was_chosen_leave_no_calibration(lists: RankerLists, tmp_path: Path) -> None:
    nothing = replace(lists, relevance=np.zeros_like(lists.relevance))
    path = tmp_path / "calibration.json"
    path.write_text("of another training")
    calibrate(lists.dense[:, :, 0], nothing, path=path)
    assert not path.exists()


def test_the_students_layers_are_its_teachers(ranker_dir: Path) -> None:
    teacher, student = (json.loads((ranker_dir / name / "ranker.json").read_text()) for name in (TEACHER, STUDENT))
    assert student["encoder"] == teacher["encoder"]
    assert (student["decomposed"]["width"], student["decomposed"]["num_joint_layers"]) == (32, 1)


def test_lists_of_another_length_than_was_learnt_on_are_refused(ranker_dir: Path) -> None:
    check_num_ranked(ranker_dir, 50)
    with pytest.raises(ValueError, match=r"learnt on lists of 50 but serving\.pipeline\.num_ranked is 100; set ranker"):
        check_num_ranked(ranker_dir, 100)
