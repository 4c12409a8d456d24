import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.transitions import fit_transitions
from towers.retrievers.weights import transition_weights


def dense(table) -> np.ndarray:
    matrix = np.zeros((table.num_rows, table.num_rows))
    sources = np.repeat(np.arange(table.num_rows), np.diff(table.indptr))
    matrix[sources, table.indices] = table.values
    return matrix


def test_successors_count_by_distance_and_are_divided_by_how_common_both_are():
    # one history 2, 3, 4 with exponent 1: T[2,3] = 1, T[3,4] = 1, T[2,4] = 1/2
    # out[2] = 1.5, out[3] = 1; into[3] = 1, into[4] = 1.5; divided by sqrt(out * into)
    table = fit_transitions(
        query_rows=np.array([7, 7, 7]),
        item_rows=np.array([2, 3, 4]),
        num_rows=5,
        distance_exponent=1.0,
        popularity_discount=0.5,
    )
    expected = np.zeros((5, 5))
    expected[2, 3], expected[3, 4], expected[2, 4] = 1 / 1.5**0.5, 1 / 1.5**0.5, 0.5 / 1.5
    np.testing.assert_allclose(dense(table), expected, rtol=1e-6)


def test_without_discount_a_row_is_a_probability():
    table = fit_transitions(
        query_rows=np.array([0, 0, 1, 1, 2, 2]),
        item_rows=np.array([2, 3, 2, 3, 2, 4]),
        num_rows=5,
        popularity_discount=0.0,
    )
    np.testing.assert_allclose(dense(table)[2], [0, 0, 0, 2 / 3, 1 / 3])


def test_transitions_have_a_direction_a_window_and_no_repeats():
    table = fit_transitions(
        query_rows=np.zeros(4, dtype=np.int64), item_rows=np.array([2, 3, 3, 4]), num_rows=5, window=1
    )
    assert np.argwhere(dense(table)).tolist() == [[2, 3], [3, 4]]


def test_unknown_items_are_skipped_but_keep_their_place():
    # 2, unknown, 3: item 3 is the second after 2, out of a window of 1
    arguments = {"query_rows": np.zeros(3, dtype=np.int64), "item_rows": np.array([2, 1, 3]), "num_rows": 4}
    assert len(fit_transitions(window=1, **arguments).indices) == 0
    assert np.argwhere(dense(fit_transitions(window=2, **arguments))).tolist() == [[2, 3]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(2, 6)), max_size=30), st.integers(0, 100))
def test_queries_may_interleave_as_long_as_their_own_order_holds(events, seed):
    queries = np.array([query for query, _ in events], dtype=np.int64)
    items = np.array([item for _, item in events], dtype=np.int64)
    grouped = np.argsort(queries, kind="stable")
    renamed = np.random.default_rng(seed).permutation(4)
    first = fit_transitions(query_rows=queries, item_rows=items, num_rows=7)
    second = fit_transitions(query_rows=renamed[queries[grouped]], item_rows=items[grouped], num_rows=7)
    np.testing.assert_allclose(dense(first), dense(second), rtol=1e-5)


def test_it_finds_the_next_item_of_a_chain():
    # every query walks the same ring of 20 items: what comes next is certain
    ring = np.arange(2, 22)
    table = fit_transitions(
        query_rows=np.repeat(np.arange(5), 20), item_rows=np.tile(ring, 5), num_rows=22, distance_exponent=1.0
    )
    history = ring[None, :8]
    scores = table.score_all(history_rows=history, weights=transition_weights(history))[0]
    scores[history[0]] = -np.inf
    assert scores.argmax() == ring[8]


def test_arguments_out_of_range_are_refused():
    events = {"query_rows": np.zeros(2, dtype=np.int64), "item_rows": np.array([2, 3])}
    with pytest.raises(ValueError, match=r"rows below 3.*highest item row 3"):
        fit_transitions(num_rows=3, **events)
    with pytest.raises(ValueError, match=r"popularity_discount in \[0, 1\]; got 20 and 1.5"):
        fit_transitions(num_rows=4, popularity_discount=1.5, **events)
