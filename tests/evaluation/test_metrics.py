import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.errors import InvalidLists
from evaluation.metrics import count_relevant, gains, hit_rate, mrr, ndcg, recall

METRICS = (ndcg, recall, mrr, hit_rate)


def hits_of(ranked: list[list[int]], relevant: list[list[int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    sets = [np.array(items) for items in relevant]
    return gains(ranked=np.array(ranked), relevant=sets), count_relevant(sets)


def test_gains_mark_the_relevant_items_of_the_own_query_only():
    hits, num_relevant = hits_of([[5, 7, 9], [5, 7, 9]], [[7, 8], [9]])
    np.testing.assert_array_equal(hits, [[0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(num_relevant, [2, 1])


def test_a_padded_array_of_relevant_items_means_the_same_as_a_list():
    ranked = np.array([[5, 7, 9], [9, 7, 5]])
    padded = np.array([[7, 8], [9, 0]])
    np.testing.assert_array_equal(
        gains(ranked=ranked, relevant=padded), gains(ranked=ranked, relevant=[np.array([7, 8]), np.array([9])])
    )
    np.testing.assert_array_equal(count_relevant(padded), [2, 1])


def test_padding_in_a_list_is_never_a_hit():
    hits, _ = hits_of([[7, 0, 0]], [[7]])
    np.testing.assert_array_equal(hits, [[1, 0, 0]])


def test_ndcg_matches_hand_computation():
    # hits at ranks 1 and 3 of 3 relevant, k = 3: 1/log2(2) + 1/log2(4) = 1.5
    # the best list has hits at 1, 2 and 3: 1 + 1/log2(3) + 0.5 = 1.5 + 0.63093
    hits, num_relevant = hits_of([[4, 5, 6]], [[4, 6, 99]])
    np.testing.assert_allclose(ndcg(hits, num_relevant=num_relevant, k=3), [1.5 / (1.5 + 1 / math.log2(3))])


def test_the_ideal_of_ndcg_stops_at_k():
    # 3 relevant, k = 2, both places hit: nothing better fits into 2 places
    hits, num_relevant = hits_of([[4, 5]], [[4, 5, 6]])
    np.testing.assert_allclose(ndcg(hits, num_relevant=num_relevant, k=2), [1.0])


def test_recall_divides_by_all_relevant_items_also_those_no_system_can_return():
    # 2 of 4 relevant items found; 98 and 99 were never seen in training
    hits, num_relevant = hits_of([[4, 5, 6]], [[4, 6, 98, 99]])
    np.testing.assert_allclose(recall(hits, num_relevant=num_relevant, k=3), [0.5])
    np.testing.assert_allclose(recall(hits, num_relevant=num_relevant, k=1), [0.25])


def test_a_grade_is_its_own_gain_and_the_best_list_has_the_highest_grades_first():
    # grades: item 4 is 1, item 5 is 3, item 6 is 2, item 7 is not relevant; the list is 4, 7, 5
    relevant, grades = np.array([[4, 5, 6]]), np.array([[1.0, 3.0, 2.0]])
    hits = gains(ranked=np.array([[4, 7, 5]]), relevant=relevant, grades=grades)
    np.testing.assert_array_equal(hits, [[1, 0, 3]])
    # 1/log2(2) + 3/log2(4) = 2.5 of the best possible 3 + 2/log2(3) + 1/log2(4)
    value = ndcg(hits, num_relevant=count_relevant(relevant), k=3, grades=grades)
    np.testing.assert_allclose(value, [2.5 / (3.5 + 2 / math.log2(3))])
    # At k = 1 the best list has the grade 3.
    np.testing.assert_allclose(ndcg(hits, num_relevant=count_relevant(relevant), k=1, grades=grades), [1 / 3])
    # The others ask whether, not how much.
    assert recall(hits, num_relevant=count_relevant(relevant), k=3).tolist() == [2 / 3]
    assert mrr(hits[:, 1:], num_relevant=count_relevant(relevant), k=2).tolist() == [1 / 2]
    assert hit_rate(hits, num_relevant=count_relevant(relevant), k=3).tolist() == [1.0]


def test_grades_of_one_are_no_grades():
    ranked, relevant = np.array([[4, 5, 6], [9, 4, 5]]), np.array([[4, 6, 8], [5, 0, 0]])
    grades = (relevant > 0).astype(np.float64)
    plain, graded = gains(ranked=ranked, relevant=relevant), gains(ranked=ranked, relevant=relevant, grades=grades)
    np.testing.assert_array_equal(plain, graded)
    num_relevant = count_relevant(relevant)
    np.testing.assert_allclose(
        ndcg(graded, num_relevant=num_relevant, k=3, grades=grades), ndcg(plain, num_relevant=num_relevant, k=3)
    )


def test_grades_that_say_nothing_are_refused():
    ranked, relevant = np.array([[4]]), np.array([[4]])
    with pytest.raises(InvalidLists, match=r"grades has shape \(1, 2\); expected that of relevant"):
        gains(ranked=ranked, relevant=relevant, grades=np.ones((1, 2)))
    for grade in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InvalidLists, match="must be above 0 and finite"):
            gains(ranked=ranked, relevant=relevant, grades=np.array([[grade]]))


def test_mrr_and_hit_rate_look_at_the_first_hit_within_k():
    hits, num_relevant = hits_of([[4, 5, 6], [4, 5, 6], [4, 5, 6]], [[5, 6], [6], [9]])
    np.testing.assert_allclose(mrr(hits, num_relevant=num_relevant, k=3), [1 / 2, 1 / 3, 0])
    np.testing.assert_allclose(mrr(hits, num_relevant=num_relevant, k=2), [1 / 2, 0, 0])
    np.testing.assert_allclose(hit_rate(hits, num_relevant=num_relevant, k=2), [1, 0, 0])


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[NDArray[np.int64], list[NDArray[np.int64]], int]:
    num_queries, length = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    lists = st.permutations(range(1, 13))
    ranked = np.array([draw(lists)[:length] for _ in range(num_queries)])
    relevant = [np.array(draw(lists)[: draw(st.integers(1, 10))]) for _ in range(num_queries)]
    return ranked, relevant, draw(st.integers(1, length))


@given(evaluations())
def test_every_metric_lies_between_0_and_1_and_rises_when_a_hit_moves_up(case):
    ranked, relevant, k = case
    hits, num_relevant = gains(ranked=ranked, relevant=relevant), count_relevant(relevant)
    best = -np.sort(-hits, axis=1)
    for metric in METRICS:
        values = metric(hits, num_relevant=num_relevant, k=k)
        assert values.shape == (len(ranked),)
        assert (values >= 0).all()
        assert (values <= metric(best, num_relevant=num_relevant, k=k) + 1e-12).all()
        assert (metric(best, num_relevant=num_relevant, k=k) <= 1 + 1e-12).all()


@given(evaluations())
def test_the_numbering_of_items_does_not_matter(case):
    ranked, relevant, _ = case
    renamed = np.random.default_rng(0).permutation(np.arange(1, 14)) * 1_000_003
    before = gains(ranked=ranked, relevant=relevant)
    after = gains(ranked=renamed[ranked - 1], relevant=[renamed[items - 1] for items in relevant])
    np.testing.assert_array_equal(before, after)


# Without numba's compiler ranx gives the same numbers in 3 seconds instead of 40, but only in a process of its own.
RANX = """
import json, sys, ranx
case = json.load(sys.stdin)
truth, lists = ranx.Qrels(case["truth"]), ranx.Run(case["lists"])
values = {name: ranx.evaluate(truth, lists, name, return_mean=False).tolist() for name in case["names"]}
print(json.dumps(values))
"""


def of_ranx(
    truth: dict[int, dict[str, int]], ranked: NDArray[np.int64], *, names: tuple[str, ...]
) -> dict[str, list[float]]:
    """One value a query by name of the metric; truth is the grade of each relevant item by query."""
    case = {
        "truth": {f"q{query:02d}": of_items for query, of_items in truth.items()},
        "lists": {
            f"q{query:02d}": {str(item): 1.0 / rank for rank, item in enumerate(items, start=1)}
            for query, items in enumerate(ranked)
        },
        "names": names,
    }
    process = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps(case),
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    values: dict[str, list[float]] = json.loads(process.stdout)
    return values


def test_metrics_equal_those_of_ranx():
    generator = np.random.default_rng(3)
    ranked = np.stack([generator.permutation(np.arange(1, 200))[:50] for _ in range(60)])
    relevant = [generator.permutation(np.arange(1, 200))[: generator.integers(1, 30)] for _ in range(60)]
    measured = {f"{metric.__name__}@{k}": (metric, k) for metric in METRICS for k in (1, 10, 50)}
    truth = {query: {str(item): 1 for item in items} for query, items in enumerate(relevant)}
    theirs = of_ranx(truth, ranked, names=tuple(measured))
    hits, num_relevant = gains(ranked=ranked, relevant=relevant), count_relevant(relevant)
    for name, (metric, k) in measured.items():
        np.testing.assert_allclose(metric(hits, num_relevant=num_relevant, k=k), theirs[name], err_msg=name)


def test_ndcg_of_grades_equals_that_of_ranx():
    generator = np.random.default_rng(4)
    ranked = np.stack([generator.permutation(np.arange(1, 60))[:20] for _ in range(40)])
    relevant = np.stack([generator.permutation(np.arange(1, 60))[:15] for _ in range(40)])
    grades = generator.integers(1, 5, size=relevant.shape)
    theirs = of_ranx(
        {
            query: dict(zip(map(str, items.tolist()), of_items.tolist(), strict=True))
            for query, (items, of_items) in enumerate(zip(relevant, grades, strict=True))
        },
        ranked,
        names=("ndcg@5", "ndcg@20"),
    )
    hits, num_relevant = gains(ranked=ranked, relevant=relevant, grades=grades), count_relevant(relevant)
    for k in (5, 20):
        ours = ndcg(hits, num_relevant=num_relevant, k=k, grades=grades)
        np.testing.assert_allclose(ours, theirs[f"ndcg@{k}"])


def test_lists_shorter_than_k_are_refused_instead_of_counting_as_misses():
    hits, num_relevant = hits_of([[4, 5]], [[4]])
    with pytest.raises(InvalidLists, match="k = 10, but the lists hold 2"):
        recall(hits, num_relevant=num_relevant, k=10)


def test_a_query_without_relevant_items_is_refused_by_number():
    hits, num_relevant = hits_of([[4], [5]], [[4], []])
    with pytest.raises(InvalidLists, match="query 1 has no relevant item"):
        ndcg(hits, num_relevant=num_relevant, k=1)


@pytest.mark.parametrize(
    ("ranked", "relevant", "message"),
    [
        ([[4, 4]], [[4]], "item row 4 stands twice in the list of query 0"),
        ([[4, 5]], [[4, 4]], "same relevant item twice"),
        ([[4, -1]], [[4]], "negative"),
        ([[4], [5]], [[4]], "expected \\[Q, K\\] with Q = 1"),
    ],
)
def test_lists_that_would_be_miscounted_are_refused(ranked, relevant, message):
    with pytest.raises(InvalidLists, match=message):
        hits_of(ranked, relevant)


@settings(max_examples=20)
@given(st.integers(1, 5))
def test_no_queries_give_no_values(k):
    hits = gains(ranked=np.zeros((0, k), dtype=np.int64), relevant=[])
    assert ndcg(hits, num_relevant=count_relevant([]), k=k).shape == (0,)
