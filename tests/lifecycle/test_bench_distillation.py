import numpy as np
import pytest

from lifecycle.bench_distillation import WEIGHED, agreement_measures, ndcg_of, order_measures
from ranking.data import RankerLists


def lists_of(relevance: np.ndarray, *, num_present: int | None = None) -> RankerLists:
    """Lists of which the first candidates are present; what is relevant was found by stage 1 or not."""
    num, width = relevance.shape
    rows = np.tile(np.arange(1, width + 1), (num, 1))
    return RankerLists(
        candidate_rows=np.where(np.arange(width) < (num_present or width), rows, 0),
        tokens=np.zeros((num, width, 2), dtype=np.int32),
        dense=np.zeros((num, width, 1), dtype=np.float32),
        relevance=relevance.astype(np.float32),
        num_relevant=np.ones(num, dtype=np.int64),
        query_embeddings=np.zeros((num, 0), dtype=np.float32),
    )


def some_parts(*, num: int = 200, seed: int = 0) -> tuple[np.ndarray, RankerLists]:
    """A dense part that chooses, and a text that knows nothing but is much louder."""
    generator = np.random.default_rng(seed)
    dense, noise = (generator.normal(size=(num, 20)).astype(np.float32) for _ in range(2))
    return np.stack([dense, 30 * noise]), lists_of(dense == dense.max(axis=1, keepdims=True))


def test_ndcg_counts_what_was_not_found_and_orders_what_is_present() -> None:
    # ten or more are ranked; the relevant third candidate is ranked second of the first list: 1 / log2(3);
    # the second list has found nothing
    relevance = np.zeros((2, 12))
    relevance[0, 2] = 1.0
    scores = np.array([[3.0, 1.0, 2.0] + [0.0] * 7 + [9.0, 9.0]] * 2)  # the last two are no candidates
    np.testing.assert_allclose(ndcg_of(scores, lists_of(relevance, num_present=10)), [1 / np.log2(3), 0.0])


def test_a_loud_text_that_knows_nothing_is_weighed_away() -> None:
    parts, lists = some_parts()
    measured = {
        name: own.mean() for name, own in order_measures(parts, lists, generator=np.random.default_rng(1)).items()
    }
    assert measured[WEIGHED] > 0.95
    assert measured["ndcg@10, parts as learnt"] < 0.5
    # 1 of 20 at a random rank: the mean of 1/log2(1 + rank) over the first ten, of twenty, is .227
    assert measured["ndcg@10, text alone"] == pytest.approx(0.227, abs=0.06)


def test_a_half_is_weighed_by_the_other_one() -> None:
    # The first list's chosen one leads by the text and is last by the dense part, the second's the other way round.
    # Each is weighed by the other, so each is led astray; weighed by itself each would find its chosen one.
    chosen = np.eye(12)[[0, 0]]
    dense, text = (np.where(chosen > 0, sign, 0.0) for sign in (np.array([[-1.0], [1.0]]), np.array([[1.0], [-1.0]])))
    measured = order_measures(np.stack([dense, text]), lists_of(chosen), generator=np.random.default_rng(0))
    assert measured[WEIGHED].tolist() == [0.0, 0.0]
    assert measured["ndcg@10, text alone"].tolist() == [1.0, 0.0]


def test_agreement_matches_hand_computation() -> None:
    # student 1+3, 2+0, 3+0 = 4, 2, 3; teacher 3, 2, 1: of the pairs (a b), (a c), (b c) two agree: (2 - 1) / 3.
    # Their texts 3, 0, 0 and 2, 0, -2: (a b), (a c) agree, (b c) is a tie of the student: 2 / sqrt(2 * 3)
    dense, text = np.array([[1.0, 2.0, 3.0, 0.0]]), np.array([[3.0, 0.0, 0.0, 50.0]])
    teacher, present = np.array([[3.0, 2.0, 1.0, 9.0]]), np.array([[True, True, True, False]])
    measured = agreement_measures(np.stack([dense, text]), teacher, present=present)
    np.testing.assert_allclose(measured["tau with the teacher"], [1 / 3])
    np.testing.assert_allclose(measured["tau of the texts' parts"], [2 / 6**0.5])


def test_a_text_that_says_nothing_agrees_in_nothing() -> None:
    dense, teacher = np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]])
    measured = agreement_measures(np.stack([dense, np.zeros((1, 2))]), teacher, present=np.ones((1, 2), dtype=bool))
    assert measured["tau of the texts' parts"].tolist() == [0.0]
