from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranking.data import RankerLists
from ranking.embedded import pair_embeddings, read_by
from ranking.model import Ranker
from ranking.scoring import scores_by_part

BuildRanker = Callable[..., Ranker]
BuildLists = Callable[..., RankerLists]

NUM_DENSE, WIDTH, NUM_ROWS = 5, 4, 20


def some_embeddings(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def item_embeddings() -> NDArray[np.float32]:
    """Of all rows that `build_lists` names; of padding and of an unknown item too."""
    items = some_embeddings(NUM_ROWS, WIDTH, seed=1)
    items[0] = 0.0
    return items


def scores(teacher: Ranker, lists: RankerLists) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = teacher(
            torch.from_numpy(lists.tokens).long(), torch.from_numpy(lists.dense)
        ).numpy()
    return found


def test_a_pair_is_the_product_of_two_embeddings_of_unit_length() -> None:
    queries = np.array([[3.0, 4.0]], dtype=np.float32)
    items = np.array([[[4.0, 3.0], [0.0, 2.0], [0.0, 0.0]]], dtype=np.float32)
    # (.6, .8) * (.8, .6) * 2, then (.6, .8) * (0, 1) * 2, then an item without an embedding
    np.testing.assert_allclose(pair_embeddings(queries, items), [[[0.96, 0.96], [0.0, 1.6], [0.0, 0.0]]], atol=1e-6)


@given(st.integers(0, 1000))
def test_towers_trained_anew_keep_the_cosine_of_a_pair_and_nothing_else(seed: int) -> None:
    queries, items = some_embeddings(3, 8, seed=seed), some_embeddings(3, 5, 8, seed=seed + 1)
    turned, _ = np.linalg.qr(some_embeddings(8, 8, seed=seed + 2))  # no score of the towers tells it from the first
    first, second = pair_embeddings(queries, items), pair_embeddings(queries @ turned, items @ turned)
    np.testing.assert_allclose(second.mean(axis=-1), first.mean(axis=-1), atol=1e-5)
    assert np.abs(second - first).mean() > 0.1


def test_embeddings_come_behind_the_dense_features(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists, items = build_lists(num_lists=3), item_embeddings()
    read = read_by(build_ranker(embeddings=True), lists, item_embeddings=items)
    assert read.dense.shape == (3, 12, NUM_DENSE + WIDTH)
    assert read.dense.dtype == np.float32
    np.testing.assert_array_equal(read.dense[..., :NUM_DENSE], lists.dense)
    row = lists.candidate_rows[2, 7]
    expected = pair_embeddings(lists.query_embeddings[[2]], items[[[row]]])[0, 0]
    np.testing.assert_array_equal(read.dense[2, 7, NUM_DENSE:], expected)


def test_a_teacher_that_reads_none_gets_lists_as_they_are(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=3)
    assert read_by(build_ranker(), lists, item_embeddings=item_embeddings()) is lists


def test_the_joint_part_alone_reads_embeddings(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    teacher, lists = build_ranker(embeddings=True), build_lists(num_lists=3)
    other = replace(lists, query_embeddings=some_embeddings(3, WIDTH, seed=9))
    (dense, text), (dense_of_other, text_of_other) = (
        scores_by_part(teacher, read_by(teacher, own, item_embeddings=item_embeddings())) for own in (lists, other)
    )
    np.testing.assert_array_equal(dense, dense_of_other)
    assert (np.abs(text - text_of_other) > 1e-4).mean() > 0.9


def test_before_training_a_teacher_is_its_dense_part(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists, dense = build_lists(num_lists=3), build_ranker(text=False)
    teacher = build_ranker(embeddings=True, trained=False)
    teacher.take_dense_part(dense)
    read = read_by(teacher, lists, item_embeddings=item_embeddings())
    np.testing.assert_array_equal(scores(teacher, read), scores(dense, lists))


def test_absent_embeddings_have_finite_scores(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    teacher, lists, items = build_ranker(embeddings=True), build_lists(num_lists=4), item_embeddings()
    lists.candidate_rows[:, :2] = [0, 1]  # padding and an unknown item
    lists.query_embeddings[0] = 0.0  # a query without history, where towers make nothing of it
    lists.query_embeddings[1] = np.nan
    items[5] = np.nan
    found = scores(teacher, read_by(teacher, lists, item_embeddings=items))
    assert np.isfinite(found).all()
    # A query of NaN is a query of zeros.
    lists.query_embeddings[1] = 0.0
    items[5] = 0.0
    np.testing.assert_array_equal(scores(teacher, read_by(teacher, lists, item_embeddings=items)), found)


def test_towers_of_another_width_are_refused(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    teacher, wider = build_ranker(embeddings=True), some_embeddings(NUM_ROWS, WIDTH + 2)
    with pytest.raises(ValueError, match=r"learnt on towers of width 4; these embeddings have 4 and 6: train it again"):
        read_by(teacher, build_lists(num_lists=2), item_embeddings=wider)


def test_embeddings_without_a_text_are_refused(build_ranker: BuildRanker) -> None:
    with pytest.raises(ValueError, match="beside a text; this one has no text encoder"):
        build_ranker(text=False, embeddings=True)
