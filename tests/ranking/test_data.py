import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranking.data import RankerLists


def lists_of(candidate_rows: NDArray[np.int64], relevance: NDArray[np.float32]) -> RankerLists:
    num_lists, num_candidates = candidate_rows.shape
    return RankerLists(
        candidate_rows=candidate_rows,
        tokens=np.zeros((num_lists, num_candidates, 2), dtype=np.int32),
        dense=np.arange(num_lists * num_candidates, dtype=np.float32).reshape(num_lists, num_candidates, 1),
        relevance=relevance,
        num_relevant=np.ones(num_lists, dtype=np.int64),
        query_embeddings=np.arange(num_lists, dtype=np.float32)[:, None],
    )


def three_lists() -> RankerLists:
    """The first has nothing relevant, the second ends in padding, the third has two relevant candidates."""
    return lists_of(
        np.array([[2, 3, 4, 5], [6, 7, 8, 0], [9, 2, 3, 4]]),
        np.array([[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.5]], dtype=np.float32),
    )


def test_padding_is_no_candidate() -> None:
    np.testing.assert_array_equal(three_lists().present, [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_taking_lists_takes_every_array() -> None:
    taken = three_lists().take(np.array([2, 0]))

    assert len(taken) == len(taken.tokens) == len(taken.num_relevant) == 2
    assert taken.candidate_rows.tolist() == [[9, 2, 3, 4], [2, 3, 4, 5]]
    # list 2 has dense features 8..11
    assert taken.dense[0, :, 0].tolist() == [8, 9, 10, 11]
    assert taken.relevance[0].tolist() == [1, 0, 0, 0.5]
    assert taken.query_embeddings.tolist() == [[2], [0]]


def test_joined_lists_follow_each_other_with_every_array() -> None:
    lists = three_lists()
    joined = RankerLists.joined([lists.take(np.array([2, 0])), lists.take(np.array([1]))])
    assert len(joined) == len(joined.tokens) == len(joined.num_relevant) == 3
    assert joined.candidate_rows[:, 0].tolist() == [9, 2, 6]
    assert joined.dense[:, 0, 0].tolist() == [8, 0, 4]
    assert joined.relevance.sum(axis=1).tolist() == [1.5, 0, 1]


def test_a_list_is_learnable_when_a_candidate_is_relevant() -> None:
    assert three_lists().learnable().candidate_rows[:, 0].tolist() == [6, 9]


def test_a_list_of_relevant_candidates_alone_teaches_nothing() -> None:
    alone = lists_of(np.array([[2, 0, 0], [3, 4, 0], [5, 6, 7]]), np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]]))

    assert alone.learnable().candidate_rows.tolist() == [[5, 6, 7]]
    assert alone.samples(num_negatives=2, generator=np.random.default_rng(0))[0].tolist() == [2]


def test_a_sample_is_the_relevant_candidate_then_the_others() -> None:
    lists, places = three_lists().samples(num_negatives=2, generator=np.random.default_rng(0))

    assert lists.tolist() == [1, 2]
    # list 1: relevant at 2, the others at 0 and 1 (3 is padding); list 2: relevant at 0 or 3, the others at 1 and 2
    assert places[0, 0] == 2
    assert sorted(places[0, 1:]) == [0, 1]
    assert places[1, 0] in {0, 3}
    assert sorted(places[1, 1:]) == [1, 2]


def test_each_of_several_relevant_candidates_is_drawn() -> None:
    generator = np.random.default_rng(0)
    assert {int(three_lists().samples(num_negatives=1, generator=generator)[1][1, 0]) for _ in range(20)} == {0, 3}


def test_more_negatives_than_there_are_repeat_some() -> None:
    _, places = three_lists().samples(num_negatives=30, generator=np.random.default_rng(0))

    assert places.shape == (2, 31)
    assert set(places[0, 1:]) == {0, 1}
    assert set(places[1, 1:]) == {1, 2}


def test_negatives_come_from_what_the_teacher_scored() -> None:
    rows = np.tile(np.arange(2, 10), (2, 1))
    relevance = np.zeros((2, 8), dtype=np.float32)
    relevance[:, 0] = 1.0
    scored = np.zeros((2, 8), dtype=np.bool_)
    scored[0, [0, 5, 7]] = True

    _, places = lists_of(rows, relevance).samples(num_negatives=4, generator=np.random.default_rng(0), scored=scored)

    assert set(places[0, 1:]) <= {5, 7}
    assert len(set(places[1, 1:])) == 4  # nothing was scored there, so all others may be drawn


def test_of_several_relevant_candidates_one_that_the_teacher_scored_is_drawn() -> None:
    # Relevant at 0, 1 and 2 of two lists; the teacher scored 1 and 5 of the first, and 3 and 4 of the second.
    relevance = np.zeros((2, 8), dtype=np.float32)
    relevance[:, :3] = 1.0
    scored = np.zeros((2, 8), dtype=np.bool_)
    scored[0, [1, 5]], scored[1, [3, 4]] = True, True
    lists, generator = lists_of(np.tile(np.arange(2, 10), (2, 1)), relevance), np.random.default_rng(0)

    drawn = [lists.samples(num_negatives=2, generator=generator, scored=scored)[1] for _ in range(30)]

    assert {int(places[0, 0]) for places in drawn} == {1}
    assert {int(places[1, 0]) for places in drawn} == {0, 1, 2}  # none is scored, so each may be drawn


def test_all_negatives_are_equally_likely() -> None:
    # one relevant candidate behind 40 others: the first 10 get a quarter of the draws
    relevance = np.zeros((1, 41), dtype=np.float32)
    relevance[0, 40] = 1.0
    lists = lists_of(np.arange(2, 43)[None], relevance)

    _, places = lists.samples(num_negatives=20_000, generator=np.random.default_rng(0))

    assert np.mean(places[0, 1:] < 10) == pytest.approx(0.25, abs=0.02)


@st.composite
def any_lists(draw: st.DrawFn) -> tuple[RankerLists, NDArray[np.bool_] | None]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 8)))
    rows = np.tile(np.arange(2, shape[1] + 2), (shape[0], 1))
    rows[np.arange(shape[1]) >= generator.integers(1, shape[1] + 1, size=(shape[0], 1))] = 0
    relevance = np.where(rows > 0, generator.integers(0, 3, size=shape), 0).astype(np.float32)
    return lists_of(rows, relevance), generator.random(shape) < 0.5 if draw(st.booleans()) else None


@given(any_lists(), st.integers(1, 10), st.integers(0, 99))
def test_no_sample_holds_padding_or_a_second_relevant_candidate(
    case: tuple[RankerLists, NDArray[np.bool_] | None], num_negatives: int, seed: int
) -> None:
    lists, scored = case
    numbers, places = lists.samples(num_negatives=num_negatives, generator=np.random.default_rng(seed), scored=scored)

    assert len(numbers) == len(lists.learnable())
    for number, own in zip(numbers, places, strict=True):
        relevance = lists.relevance[number, own]
        assert relevance[0] > 0
        assert not relevance[1:].any()
        assert lists.present[number, own].all()
        others = int(((lists.relevance[number] <= 0) & lists.present[number]).sum())
        if scored is None and others >= num_negatives:
            assert len(set(own)) == 1 + num_negatives


@given(any_lists(), st.integers(0, 99))
def test_the_same_seed_draws_the_same(case: tuple[RankerLists, NDArray[np.bool_] | None], seed: int) -> None:
    lists, scored = case
    first, second = (
        lists.samples(num_negatives=3, generator=np.random.default_rng(seed), scored=scored) for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
