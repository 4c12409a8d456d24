import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.transforms import QueryFeatures, RankerInputs
from serving.answers import STAGES
from serving.errors import ReleaseDamaged
from serving.models import TowerArrays
from serving.pipeline import Pipeline, Recommendations
from serving.release import Release
from serving.settings import PipelineSettings

NUM_ITEMS, D = 300, 8
BuildQueries = Callable[[list[list[str]]], QueryFeatures]
HISTORIES = [
    ["i1", "i2", "i3"],
    [],
    ["i5", "nobody"],
    [f"i{number}" for number in range(40)],  # longer than the 10 that the tower sees
    ["i7"] * 3,
    [f"i{number}" for number in range(NUM_ITEMS - 4)],  # all but i296 to i299
]


class FakeModels:
    """Both models by hand: every query the same embedding, every candidate the score of its place."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def query_tower(self, inputs: TowerArrays) -> NDArray[np.float32]:
        return np.ones((len(inputs.history_mask), D), dtype=np.float32)

    def ranker(self, inputs: RankerInputs) -> NDArray[np.float32]:
        self.shapes.append((inputs.tokens.shape, inputs.dense.shape))
        return np.tile(np.array(self.scores, dtype=np.float32), (len(inputs.dense), 1))


@pytest.fixture(scope="module")
def real(tiny_release: Path) -> Pipeline:
    """The tiny release with its own models; 50 of 80 candidates are ranked."""
    return Pipeline.open(tiny_release, settings=PipelineSettings(num_candidates=80, num_ranked=50))


@pytest.fixture
def recommend_by(tiny_release: Path, build_queries: BuildQueries) -> Callable[..., Recommendations]:
    """Recommend to histories where the first candidates have these scores."""

    def recommend(
        scores: list[float], *, num_candidates: int, histories: list[list[str]], k: int = 100
    ) -> Recommendations:
        settings = PipelineSettings(num_candidates=num_candidates, num_ranked=len(scores))
        pipeline = Pipeline.open(tiny_release, settings=settings, models=FakeModels(scores))
        return pipeline.recommend(build_queries(histories), k=k, with_candidates=True)

    return recommend


def one_of(queries: QueryFeatures, n: int) -> QueryFeatures:
    return QueryFeatures(**{field.name: getattr(queries, field.name)[n : n + 1] for field in fields(queries)})


def test_a_batch_equals_its_queries_one_at_a_time(real: Pipeline, build_queries: BuildQueries) -> None:
    queries = build_queries(HISTORIES)
    batch = real.recommend(queries, k=60, with_candidates=True)
    for n in range(len(HISTORIES)):
        one = real.recommend(one_of(queries, n), k=60, with_candidates=True)
        assert one.item_ids[0] == batch.item_ids[n]
        assert one.candidate_ids[0] == batch.candidate_ids[n]
        np.testing.assert_array_equal(one.retrieval_ranks[0], batch.retrieval_ranks[n])
        for name in ("scores", "retrieval_scores", "candidate_scores"):
            np.testing.assert_allclose(getattr(one, name)[0], getattr(batch, name)[n], atol=1e-4)


@settings(max_examples=25)
@given(
    numbers=st.lists(st.lists(st.integers(0, NUM_ITEMS + 9), max_size=25), min_size=1, max_size=3),
    k=st.integers(1, 100),
)
def test_a_list_is_sorted_distinct_and_new_to_its_query(
    real: Pipeline, build_queries: BuildQueries, numbers: list[list[int]], k: int
) -> None:
    histories = [[f"i{number}" for number in history] for history in numbers]
    found = real.recommend(build_queries(histories), k=k)
    for history, item_ids, scores, ranks in zip(
        histories, found.item_ids, found.scores, found.retrieval_ranks, strict=True
    ):
        assert len(item_ids) == len(set(item_ids)) == len(scores) == min(k, 80)
        assert not set(item_ids) & {*history, ""}
        assert (np.diff(scores) <= 0).all()
        assert (ranks[:50] <= 50).all()  # what was ranked
        assert ranks[50:].tolist() == list(range(51, k + 1))[:30]


def test_items_carry_their_place_and_score_among_the_candidates(real: Pipeline, build_queries: BuildQueries) -> None:
    found = real.recommend(build_queries(HISTORIES), k=20, with_candidates=True)
    for n in range(len(HISTORIES)):
        places = found.retrieval_ranks[n] - 1
        assert found.item_ids[n] == [found.candidate_ids[n][place] for place in places]
        np.testing.assert_array_equal(found.retrieval_scores[n], found.candidate_scores[n][places])
        assert (np.diff(found.candidate_scores[n]) <= 0).all()
    assert [len(candidates) for candidates in found.candidate_ids] == [80, 80, 80, 80, 80, 4]


def test_candidates_are_told_only_when_asked_for(real: Pipeline, build_queries: BuildQueries) -> None:
    queries = build_queries(HISTORIES)
    found, with_candidates = real.recommend(queries, k=5), real.recommend(queries, k=5, with_candidates=True)
    assert (found.candidate_ids, found.candidate_scores) == ([], [])
    assert found.item_ids == with_candidates.item_ids


def test_a_list_is_as_long_as_there_are_candidates(real: Pipeline, build_queries: BuildQueries) -> None:
    found = real.recommend(build_queries(HISTORIES), k=1000)
    # 80 candidates, or the 4 items that the last query has not seen
    assert [len(item_ids) for item_ids in found.item_ids] == [80, 80, 80, 80, 80, 4]
    assert set(found.item_ids[-1]) == {"i296", "i297", "i298", "i299"}
    assert all(np.isfinite(scores).all() for scores in found.scores)


def test_a_query_that_has_seen_everything_gets_nothing(real: Pipeline, build_queries: BuildQueries) -> None:
    found = real.recommend(build_queries([list(real.release.item_ids)]), k=5, with_candidates=True)
    assert (found.item_ids, found.candidate_ids) == ([[]], [[]])


def test_the_ranker_decides_and_what_it_did_not_see_follows_below(
    recommend_by: Callable[..., Recommendations],
) -> None:
    # of 5 candidates the first 3 are ranked 1, 5, 3; the others follow at 1 and 2 below the worst: 0, -1
    found = recommend_by([1.0, 5.0, 3.0], num_candidates=5, histories=[["i1"], []])
    for n in range(2):
        assert found.retrieval_ranks[n].tolist() == [2, 3, 1, 4, 5]
        assert found.scores[n].tolist() == [5.0, 3.0, 1.0, 0.0, -1.0]
        assert found.item_ids[n] == [found.candidate_ids[n][place] for place in (1, 2, 0, 3, 4)]


def test_what_was_ranked_has_the_probability_of_its_score_and_what_was_not_has_none(
    recommend_by: Callable[..., Recommendations],
) -> None:
    # the odds of a score are 4 ** score: 1024, 8 and 1
    found = recommend_by([1.5, 5.0, 0.0], num_candidates=5, histories=[["i1"], []])
    for n in range(2):
        assert found.scores[n].tolist() == [5.0, 1.5, 0.0, -1.0, -2.0]
        np.testing.assert_allclose(found.probabilities[n], [1024 / 1025, 8 / 9, 0.5, np.nan, np.nan], rtol=1e-6)


def test_a_release_without_a_calibration_has_no_probabilities(tiny_release: Path, build_queries: BuildQueries) -> None:
    release = replace(Release.open(tiny_release), calibration=None)
    pipeline = Pipeline(
        release=release,
        models=FakeModels([1.0, 2.0]),
        settings=PipelineSettings(num_candidates=3, num_ranked=2),
    )
    found = pipeline.recommend(build_queries([[]]), k=3)
    assert np.isnan(found.probabilities[0]).all()
    assert np.isfinite(found.scores[0]).all()


def test_equal_scores_keep_the_order_of_retrieval(recommend_by: Callable[..., Recommendations]) -> None:
    found = recommend_by([7.0, 7.0, 7.0, 7.0], num_candidates=4, histories=[[]])
    assert found.item_ids == found.candidate_ids


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([0.1, float("nan"), 0.3, float("nan")], [3, 1, 2, 4, 5, 6]),
        ([float("nan")] * 4, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_scores_that_are_no_numbers_leave_a_defined_order(
    recommend_by: Callable[..., Recommendations], scores: list[float], ranks: list[int]
) -> None:
    found = recommend_by(scores, num_candidates=6, histories=[[], ["i1"]])
    assert [own.tolist() for own in found.retrieval_ranks] == [ranks, ranks]
    assert len(set(found.item_ids[0])) == 6


def test_the_ranker_sees_the_first_candidates_of_all_queries_at_once(
    tiny_release: Path, build_queries: BuildQueries
) -> None:
    models = FakeModels([0.0] * 7)
    settings = PipelineSettings(num_candidates=20, num_ranked=7)
    pipeline = Pipeline.open(tiny_release, settings=settings, models=models)
    pipeline.recommend(build_queries(HISTORIES), k=5)
    spec = pipeline.release.spec
    assert models.shapes == [((6, 7, spec.text.length), (6, 7, len(spec.names("ranker", "number"))))]


def test_every_stage_has_its_time(real: Pipeline, build_queries: BuildQueries) -> None:
    stage_ms = real.recommend(build_queries(HISTORIES[:2]), k=5).stage_ms
    assert tuple(stage_ms) == STAGES
    assert all(milliseconds >= 0.0 for milliseconds in stage_ms.values())


def test_a_damaged_release_is_not_opened(tiny_release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_release, tmp_path / "copy")
    (copy / "ranker.onnx").write_bytes(b"")
    with pytest.raises(ReleaseDamaged, match=r"ranker\.onnx is damaged"):
        Pipeline.open(copy, settings=PipelineSettings())
