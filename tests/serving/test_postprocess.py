import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.postprocess import final_order

nan, inf = float("nan"), float("inf")


def order_of(rows: list[int], scores: list[float], *, k: int = 99) -> list[int]:
    places = final_order(np.array([rows]), np.array([scores], dtype=np.float32), k=k)
    assert len(places) == 1
    return places[0].tolist()


def test_the_best_score_comes_first() -> None:
    assert order_of([7, 8, 9], [0.1, 0.3, 0.2]) == [1, 2, 0]


def test_candidates_that_were_not_ranked_come_behind_in_the_order_of_retrieval() -> None:
    assert order_of([5, 6, 7, 8, 9], [-5.0, 2.0]) == [1, 0, 2, 3, 4]


def test_equal_scores_keep_the_order_of_retrieval() -> None:
    assert order_of([5, 6, 7, 8, 9], [1.0, 2.0, 1.0, 2.0, 1.0]) == [1, 3, 0, 2, 4]


def test_a_score_that_is_no_number_is_the_worst_of_the_ranked() -> None:
    assert order_of([5, 6, 7, 8, 9], [nan, -3.0, nan, 4.0]) == [3, 1, 0, 2, 4]
    assert order_of([5, 6, 7], [nan, nan, nan]) == [0, 1, 2]


def test_infinite_scores_have_their_place() -> None:
    assert order_of([5, 6, 7, 8], [-inf, 0.0, inf, -1e38]) == [2, 1, 3, 0]
    # a score of minus infinity is as bad as none, so these two keep the order of retrieval
    assert order_of([5, 6, 7], [nan, -inf, 0.0]) == [2, 0, 1]


def test_padding_is_left_out_however_well_it_scores() -> None:
    assert order_of([5, 6, 0, 0], [1.0, 2.0, 9.0, 9.0]) == [1, 0]
    assert order_of([0, 0], [1.0, 2.0]) == []


def test_a_list_is_cut_to_k_after_padding_went() -> None:
    assert order_of([5, 0, 6, 7], [1.0, 9.0, 2.0, 3.0], k=2) == [3, 2]
    assert order_of([5, 6], [1.0, 2.0], k=5) == [1, 0]


def test_each_query_has_its_own_order() -> None:
    orders = final_order(np.array([[5, 6, 7], [5, 6, 0]]), np.array([[1, 2, 3], [3, 2, 9]], dtype=np.float32), k=3)
    assert [order.tolist() for order in orders] == [[2, 1, 0], [0, 1]]


def test_no_queries_have_no_orders() -> None:
    assert final_order(np.zeros((0, 3), dtype=np.int64), np.zeros((0, 2), dtype=np.float32), k=3) == []


@st.composite
def scored_lists(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num, num_candidates = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rows = np.tile(np.arange(2, num_candidates + 2), (num, 1))
    rows[np.arange(num_candidates) >= generator.integers(0, num_candidates + 1, size=(num, 1))] = 0
    scores = generator.integers(-2, 3, size=(num, draw(st.integers(0, num_candidates)))).astype(np.float32)
    scores[generator.random(scores.shape) < 0.2] = np.nan
    return rows, scores


@given(scored_lists(), st.integers(0, 12))
def test_an_order_is_total_whatever_the_scores(case: tuple[NDArray[np.int64], NDArray[np.float32]], k: int) -> None:
    rows, scores = case
    num_ranked = scores.shape[1]
    for own_rows, own_scores, order in zip(rows, scores, final_order(rows, scores, k=k), strict=True):

        def key(place: int, scores: NDArray[np.float32] = own_scores) -> tuple[bool, float, int]:
            if place >= num_ranked:
                return True, 0.0, place
            return False, inf if np.isnan(scores[place]) else -float(scores[place]), place

        assert order.tolist() == sorted(np.flatnonzero(own_rows).tolist(), key=key)[:k]
