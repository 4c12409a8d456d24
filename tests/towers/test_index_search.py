import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder
from towers.index.search import NO_RESULT, ItemIndex

ROWS = np.arange(2, 22)


def embeddings_of(num: int, *, seed: int, width: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


INDEX = FlatBuilder().build(embeddings_of(20, seed=0), ROWS)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4), st.integers(1, 12))
def test_a_search_equals_scoring_every_item(seed, num_items, num_queries, k):
    generator = np.random.default_rng(seed)
    # Whole numbers, so that scores are exact; ties are many, and any order of them is right.
    items, queries = (generator.integers(-9, 10, size=(num, 4)).astype(np.float32) for num in (num_items, num_queries))
    rows = generator.permutation(1000)[:num_items] + 2
    found = FlatBuilder().build(items, rows).search(queries, k=k)
    scores = queries @ items.T
    kept = min(k, num_items)
    np.testing.assert_array_equal(found.scores[:, :kept], -np.sort(-scores, axis=1)[:, :k])
    for query, own in enumerate(found.rows[:, :kept].tolist()):
        assert len(set(own)) == kept
        places = [rows.tolist().index(row) for row in own]
        np.testing.assert_array_equal(scores[query, places], found.scores[query, :kept])
    assert (found.rows[:, kept:] == NO_RESULT).all()
    assert (found.scores[:, kept:] == -np.inf).all()


def test_the_best_item_comes_first_with_its_inner_product():
    index = FlatBuilder().build(np.array([[1, 0], [3, 0], [0, 9]], dtype=np.float32), np.array([7, 5, 6]))
    found = index.search(np.array([[2, 0]], dtype=np.float32), k=2)
    # products 2, 6 and 0
    assert found.rows.tolist() == [[5, 7]]
    assert found.scores.tolist() == [[6.0, 2.0]]
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    "index",
    [INDEX, HnswBuilder(links=4, build_beam=20, search_beam=20).build(embeddings_of(20, seed=0), ROWS)],
    ids=["flat", "hnsw"],
)
def test_a_list_longer_than_the_catalogue_is_filled_up_with_no_result(index):
    found = index.search(embeddings_of(2, seed=1), k=23)
    assert [sorted(row) for row in found.rows[:, :20].tolist()] == [ROWS.tolist()] * 2
    assert found.rows[:, 20:].tolist() == [[NO_RESULT] * 3] * 2
    assert found.scores[:, 20:].tolist() == [[-np.inf] * 3] * 2


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_batch_equals_its_queries_one_at_a_time(seed, num_queries):
    queries = embeddings_of(num_queries, seed=seed)
    batch = INDEX.search(queries, k=5)
    for place in range(num_queries):
        one = INDEX.search(queries[place : place + 1], k=5)
        np.testing.assert_array_equal(one.rows[0], batch.rows[place])
        np.testing.assert_allclose(one.scores[0], batch.scores[place], rtol=1e-5)


def test_queries_need_not_be_contiguous():
    queries = embeddings_of(6, seed=1)
    np.testing.assert_array_equal(INDEX.search(queries[::2], k=3).rows, INDEX.search(queries, k=3).rows[::2])


def test_no_queries_have_no_results():
    assert INDEX.search(np.zeros((0, 4), dtype=np.float32), k=3).rows.shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
def test_queries_of_another_width_are_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=rf"expected query embeddings \[N, 4\]; got \({shape[0]},"):
        INDEX.search(np.zeros(shape, dtype=np.float32), k=3)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_query_that_is_no_number_is_refused(broken):
    queries = embeddings_of(2, seed=1)
    queries[1, 0] = broken
    with pytest.raises(ValueError, match="query embeddings hold NaN or infinity; check the query tower's inputs"):
        INDEX.search(queries, k=3)


def test_a_list_of_no_items_is_refused():
    with pytest.raises(ValueError, match="expected k of at least 1; got 0"):
        INDEX.search(embeddings_of(1, seed=1), k=0)


def test_an_index_read_from_its_file_answers_the_same(tmp_path):
    INDEX.write(tmp_path / "index.faiss")
    read = ItemIndex.read(tmp_path / "index.faiss")
    queries = embeddings_of(3, seed=1)
    np.testing.assert_array_equal(read.search(queries, k=5).rows, INDEX.search(queries, k=5).rows)
    np.testing.assert_array_equal(read.search(queries, k=5).scores, INDEX.search(queries, k=5).scores)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


def test_writing_replaces_what_was_there(tmp_path):
    path = tmp_path / "index.faiss"
    path.write_bytes(b"of another run")
    INDEX.write(path)
    assert len(ItemIndex.read(path)) == 20


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_ends_too_early_is_refused_by_name(tmp_path, share):
    path = tmp_path / "index.faiss"
    INDEX.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"index\.faiss is not a readable index .*build it again"):
        ItemIndex.read(path)


def test_a_file_of_another_kind_or_none_at_all_is_refused_by_name(tmp_path):
    (tmp_path / "text.faiss").write_text("no index, but long enough to be one, if it were read as one")
    for name in ("text.faiss", "absent.faiss"):
        with pytest.raises(ValueError, match=rf"{name} is not a readable index .*build it again"):
            ItemIndex.read(tmp_path / name)


@pytest.mark.parametrize("builder", [FlatBuilder(), HnswBuilder(links=8, build_beam=64, search_beam=64)])
def test_another_last_coordinate_is_searched_in_a_copy(builder: IndexBuilder) -> None:
    generator = np.random.default_rng(4)
    embeddings = generator.normal(size=(50, 6)).astype(np.float32)
    rows = np.arange(100, 50, -1)  # not the order of the places
    index = builder.build(embeddings, rows)
    queries = generator.normal(size=(4, 6)).astype(np.float32)
    before = index.search(queries, k=50)
    values = generator.normal(size=101).astype(np.float32)

    found = index.with_last(values).search(queries, k=5)

    changed = np.column_stack([embeddings[:, :-1], values[rows]])
    scores = queries @ changed.T
    order = np.argsort(-scores, axis=1)[:, :5]
    np.testing.assert_array_equal(found.rows, rows[order])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, order, axis=1), rtol=1e-5)
    again = index.search(queries, k=50)
    np.testing.assert_array_equal(again.rows, before.rows)
    np.testing.assert_array_equal(again.scores, before.scores)
