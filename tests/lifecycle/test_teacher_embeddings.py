"""A teacher that reads the towers' embeddings, from training to evaluation, on the run that other tests share."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.dataset import Dataset
from features.requests import each_event
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD, REFIT
from lifecycle.systems import Systems
from lifecycle.train_ranker import STUDENT, TEACHER
from ranking.decomposed import DecomposedRanker
from ranking.export import load_ranker
from ranking.model import Ranker

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ranker_dir(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
    smoke_settings: Callable[[Path], list[str]],
    smoke_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Rankers over the run's stage 1, of which the teacher reads its embeddings."""
    directory, demo = tmp_path_factory.mktemp("embedded") / "ranker", smoke_run / "demo"
    own = ("experiment=", "ranker.", "features.")
    done = run_script(
        "train_ranker",
        *(setting for setting in smoke_settings(smoke_run) if setting.startswith(own)),
        *(f"{name}_dir={demo / name}" for name in ("data", "towers", "index")),
        f"ranker_dir={directory}",
        "ranker.teacher.reads_embeddings=true",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return directory


@pytest.fixture(scope="module")
def cuts(smoke_run: Path) -> tuple[StageOne, StageOne]:
    """Fold and refit."""
    demo = smoke_run / "demo"
    fold, refit = (StageOne.open(cut, towers_dir=demo / "towers", index_dir=demo / "index") for cut in (FOLD, REFIT))
    return fold, refit


def test_the_teacher_reads_them_and_the_student_does_not(ranker_dir: Path, cuts: tuple[StageOne, StageOne]) -> None:
    teacher, student = load_ranker(ranker_dir / TEACHER), load_ranker(ranker_dir / STUDENT)
    assert isinstance(teacher, Ranker)
    assert teacher.embedding_width == cuts[0].stage1.item_embeddings.shape[1] == 16
    assert isinstance(student, DecomposedRanker)  # which has no place for them
    assert (ranker_dir / STUDENT / "ranker.onnx").is_file()


def test_it_is_evaluated_on_candidates_of_the_refit_by_embeddings_of_the_fold(
    ranker_dir: Path, smoke_run: Path, smoke_dataset: Dataset, cuts: tuple[StageOne, StageOne], tmp_path: Path
) -> None:
    fold, refit = cuts
    days = smoke_dataset.days(REFIT.splits)
    requests = refit.ask(smoke_dataset, each_event(smoke_dataset, "test").take(slice(3)), days=days, num_candidates=50)
    systems = Systems(
        stage_one=refit,
        days=days,
        towers_dir=smoke_run / "demo" / "towers",
        ranker_dir=ranker_dir,
        num_ranked=50,
        seed=1,
    )
    by_fold, by_refit = (
        systems.teacher_lists(requests, dataset=smoke_dataset, learnt_on=own, cache=tmp_path / "scores.sqlite")
        for own in (fold, refit)
    )
    for found in (by_fold, by_refit):
        np.testing.assert_array_equal(np.sort(found.rows[:, :50]), np.sort(requests.candidates.rows))
        assert np.isfinite(found.scores[:, :50]).all()
    # Other towers, another space, other scores.
    assert not np.array_equal(by_fold.scores, by_refit.scores)
