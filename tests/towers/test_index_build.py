import numpy as np
import pytest
from numpy.typing import NDArray

from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder

BUILDERS = [FlatBuilder(), HnswBuilder(links=8, build_beam=40, search_beam=40)]
both = pytest.mark.parametrize("builder", BUILDERS, ids=["flat", "hnsw"])


def embeddings_of(num_items: int, *, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num_items, width)).astype(np.float32)


def recall_of(builder: IndexBuilder, *, k: int) -> float:
    """Share of the true first k that a search over 1,000 items finds."""
    items, queries = embeddings_of(1000, width=16), embeddings_of(50, width=16, seed=1)
    found = builder.build(items, np.arange(2, 1002)).search(queries, k=k).rows
    truth = np.argsort(-(queries @ items.T), axis=1)[:, :k] + 2
    return float(
        np.mean([len(set(own) & set(true)) / k for own, true in zip(found.tolist(), truth.tolist(), strict=True)])
    )


@both
def test_an_index_holds_its_items_under_their_rows(builder):
    items, rows = embeddings_of(20), np.arange(20) * 3 + 2
    index = builder.build(items, rows)
    assert (len(index), index.width) == (20, 8)
    found = index.search(items * 100, k=20)
    assert set(found.rows.flatten().tolist()) <= set(rows.tolist())
    # With these lengths an item is nearest to itself or to a longer one; its score is the product with that row.
    place = {int(row): at for at, row in enumerate(rows)}
    for query in range(20):
        for row, score in zip(found.rows[query].tolist(), found.scores[query], strict=True):
            assert score == pytest.approx(float(items[query] @ items[place[row]]) * 100, rel=1e-4, abs=1e-3)


def test_exact_search_finds_everything():
    assert recall_of(FlatBuilder(), k=50) == 1.0


def test_the_graph_finds_nearly_everything_and_more_with_a_wider_beam():
    narrow, wide = (recall_of(HnswBuilder(links=16, build_beam=80, search_beam=beam), k=10) for beam in (10, 200))
    assert wide > 0.99
    assert wide > narrow


@both
def test_items_may_come_in_any_order(builder):
    items, queries = embeddings_of(30), embeddings_of(4, seed=1)
    order = np.random.default_rng(2).permutation(30)
    in_order = builder.build(items, np.arange(2, 32)).search(queries, k=5)
    shuffled = builder.build(items[order], np.arange(2, 32)[order]).search(queries, k=5)
    np.testing.assert_array_equal(shuffled.rows, in_order.rows)


@both
@pytest.mark.parametrize(
    ("items", "rows"),
    [
        (embeddings_of(3), np.arange(2)),
        (embeddings_of(3)[0], np.arange(8)),
        (np.zeros((0, 8), dtype=np.float32), np.arange(0)),
    ],
    ids=["too few rows", "one axis", "no items"],
)
def test_embeddings_and_rows_that_do_not_fit_are_refused_with_their_shapes(builder, items, rows):
    with pytest.raises(ValueError, match=rf"N >= 1; got \({items.shape[0]},.*\) and \({len(rows)},\)"):
        builder.build(items, rows)


@both
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_embedding_that_is_no_number_is_refused(builder, broken):
    items = embeddings_of(5)
    items[3, 2] = broken
    with pytest.raises(ValueError, match="hold NaN or infinity; the towers did not train: see the loss curve"):
        builder.build(items, np.arange(2, 7))


@both
def test_an_item_that_stands_twice_is_refused(builder):
    with pytest.raises(ValueError, match="stands in the index twice: rows must be distinct"):
        builder.build(embeddings_of(3), np.array([2, 3, 2]))
