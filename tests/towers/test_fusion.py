import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from towers.retrievers.fusion import Fusion, sum_standardised
from towers.retrievers.sparse import SparseScores

EVERYTHING = np.ones(10, dtype=np.bool_)
FUSION = Fusion(weights={"a": 1.0, "b": 10.0}, quotas={"a": 2, "b": 2})
ANSWERS = {
    "a": SparseScores(rows=np.array([2, 3, 4, 5]), scores=np.array([1.0, 4.0, 3.0, 2.0])),
    "b": SparseScores(rows=np.array([5, 6, 7]), scores=np.array([0.05, 0.5, 0.3])),
}


def test_a_union_is_what_each_brings_by_the_weighted_sum_of_all_scores() -> None:
    # a brings 3 and 4, b brings 6 and 7; 5 is brought by neither, although its sum is 2.5
    rows, scores, ranks = FUSION.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9)
    assert rows.tolist() == [6, 3, 4, 7]
    # 10 * .5, 4, 3 and 10 * .3 = 3: of equal ones the lower row comes first
    np.testing.assert_allclose(scores, [[5, 0, 0.5], [4, 4, 0], [3, 3, 0], [3, 0, 0.3]], rtol=1e-6)
    assert ranks.tolist() == [[1, 0, 1], [2, 1, 0], [3, 2, 0], [4, 0, 2]]
    assert (scores.dtype, rows.dtype, ranks.dtype) == (np.float32, np.int64, np.int64)


def test_a_score_counts_whoever_brought_the_candidate() -> None:
    wider = replace(FUSION, quotas={"a": 3, "b": 1})
    rows, scores, ranks = wider.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9)
    # 5 is brought by a alone and scores 2 + 10 * .05
    at = rows.tolist().index(5)
    np.testing.assert_allclose(scores[at], [2.5, 2.0, 0.05], rtol=1e-6)
    assert ranks[at].tolist() == [4, 3, 0]


def test_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    whole = FUSION.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=4)
    for num in range(4):
        for long, short in zip(whole, FUSION.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=num), strict=True):
            np.testing.assert_array_equal(short, long[:num])


def test_what_is_not_allowed_makes_room_for_the_next() -> None:
    allowed = EVERYTHING.copy()
    allowed[[3, 6]] = False
    rows, _, ranks = FUSION.candidates(ANSWERS, allowed=allowed, num_candidates=9)
    assert sorted(rows.tolist()) == [4, 5, 7]
    assert ranks[rows == 5].tolist() == [[3, 2, 2]]


def test_one_retriever_alone_decides_alone() -> None:
    rows, scores, ranks = FUSION.alone("a", quota=3).candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9)
    assert rows.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    assert scores[2, 2] == np.float32(0.05)  # what the other says is told, and counts nothing
    assert ranks.tolist() == [[1, 1, 0], [2, 2, 0], [3, 3, 0]]


def test_what_was_had_before_has_weights_of_its_own() -> None:
    fusion = replace(FUSION, again={"a": 0.0, "b": 1.0}, again_bonus=4.2)
    rows, scores, _ = fusion.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9, seen_rows=np.array([6, 4, 9, 0]))
    # 3: 4, 7: 10 * .3; had before: 4: 4.2 + 0 * 3, 6: 4.2 + .5
    assert rows.tolist() == [6, 4, 3, 7]
    np.testing.assert_allclose(scores[:, 0], [4.7, 4.2, 4.0, 3.0], rtol=1e-6)
    nothing_had = fusion.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9)
    for found, expected in zip(
        nothing_had, FUSION.candidates(ANSWERS, allowed=EVERYTHING, num_candidates=9), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_fusion_is_read_as_it_was_written(tmp_path: Path) -> None:
    for fusion in (FUSION, replace(FUSION, again={"a": 0.5, "b": 0.0}, again_bonus=-1.0)):
        fusion.write(tmp_path / "fusion.json")
        assert Fusion.read(tmp_path / "fusion.json", retrievers=("a", "b")) == fusion


@pytest.mark.parametrize("part", ["weights", "quotas", "again"])
def test_a_fusion_of_other_retrievers_is_refused_by_name(tmp_path: Path, part: str) -> None:
    content = {"weights": {"a": 1.0, "b": 1.0}, "quotas": {"a": 1, "b": 1}}
    content[part] = {"a": 1.0, "c": 1.0}
    (tmp_path / "fusion.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"expected a weight and a quota of a, b; got "):
        Fusion.read(tmp_path / "fusion.json", retrievers=("a", "b"))


def test_standardised_scores_weigh_alike_whatever_their_scale():
    # -1, 0, 1 and 0, 30, 0 standardised over items 1..3: (-1.22, 0, 1.22) and (-0.71, 1.41, -0.71)
    allowed = np.array([False, True, True, True])
    small, large = np.array([[9.0, -1, 0, 1]]), np.array([[9.0, 0, 30, 0]])
    summed = sum_standardised([small.astype(np.float32), large.astype(np.float32)], allowed=allowed)
    expected = [0, -(1.5**0.5) - 0.5**0.5, 2**0.5, 1.5**0.5 - 0.5**0.5]
    np.testing.assert_allclose(summed, [expected], rtol=1e-5)


def test_a_retriever_without_an_opinion_adds_nothing_to_a_sum():
    allowed = np.array([False, True, True])
    opinion, none = np.array([[0, 1, 2]], dtype=np.float32), np.full((1, 3), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(
        sum_standardised([opinion, none], allowed=allowed), sum_standardised([opinion], allowed=allowed)
    )
