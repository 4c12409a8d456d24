import numpy as np

from serving.answers import ScoredItem, answers_of
from serving.pipeline import Recommendations


def two_lists(*, with_candidates: bool) -> Recommendations:
    return Recommendations(
        item_ids=[["b", "a"], ["c"]],
        scores=[np.array([2.0, 1.0], dtype=np.float32), np.array([0.5], dtype=np.float32)],
        probabilities=[np.array([0.25, np.nan], dtype=np.float32), np.array([0.5], dtype=np.float32)],
        retrieval_scores=[np.array([7.0, 8.0], dtype=np.float32), np.array([9.0], dtype=np.float32)],
        retrieval_ranks=[np.array([2, 1]), np.array([1])],
        candidate_ids=[["a", "b", "d"], ["c"]] if with_candidates else [],
        candidate_scores=[np.array([8.0, 7.0, 6.0]), np.array([9.0])] if with_candidates else [],
        stage_ms={"rank": 3.0},
        release_id="r1",
        delta=4,
        changes=6,
    )


def test_each_query_of_a_call_gets_its_own_list_with_scores_and_ranks_of_retrieval() -> None:
    first, second = answers_of(two_lists(with_candidates=False))

    assert first.items == (ScoredItem("b", 2.0, 7.0, 2, 0.25), ScoredItem("a", 1.0, 8.0, 1, None))
    assert second.items == (ScoredItem("c", 0.5, 9.0, 1, 0.5),)
    assert (first.release_id, first.delta, first.changes, first.stage_ms) == ("r1", 4, 6, {"rank": 3.0})
    assert first.candidates == second.candidates == ()


def test_candidates_come_in_the_order_of_retrieval_where_they_were_asked_for() -> None:
    first, second = answers_of(two_lists(with_candidates=True))

    assert first.candidates == (("a", 8.0), ("b", 7.0), ("d", 6.0))
    assert second.candidates == (("c", 9.0),)
