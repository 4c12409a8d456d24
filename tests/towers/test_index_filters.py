"""Filters upon every type of index."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.towers.test_index_types import TYPES, exhaustive, items_of, recall
from towers.errors import UnfitPieces
from towers.index.band import HeaviestApart
from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder
from towers.index.effort import Effort
from towers.index.lists import IvfFastScanBuilder, IvfFlatBuilder, IvfSq8Builder
from towers.index.part import Part
from towers.index.passing import Passing, passing_first
from towers.index.search import NO_RESULT, ItemIndex

ALL: dict[str, IndexBuilder] = {
    **TYPES,
    "flat_half": FlatBuilder(half=True),
    "ivf_sq8 of bytes alone": IvfSq8Builder(lists=4, probes=2, refine=None),
}
MANY_LISTS: dict[str, IndexBuilder] = {
    "ivf_flat": IvfFlatBuilder(lists=100, probes=30),
    "heaviest apart": HeaviestApart(share=0.01, builder=IvfFlatBuilder(lists=100, probes=15)),
    "ivf_sq8": IvfSq8Builder(lists=100, probes=30, refine=None),
    "ivf_fast_scan": IvfFastScanBuilder(lists=100, probes=30, coordinates_a_code=1, refine=8),
    "hnsw": HnswBuilder(links=16, build_beam=60, search_beam=60),
}
each = pytest.mark.parametrize("builder", ALL.values(), ids=ALL)


def filter_of(share: float, *, size: int, seed: int = 3) -> np.ndarray:
    """[size] bool, of which the share (rounded up) is True."""
    allowed = np.zeros(size, np.bool_)
    allowed[np.random.default_rng(seed).permutation(size)[: int(np.ceil(share * size))]] = True
    return allowed


@each
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 150), k=st.integers(1, 170), share=st.floats(0, 1))
def test_nothing_is_found_that_the_filter_leaves_out_and_all_else_where_all_is_read(builder, seed, num, k, share):
    items, queries = items_of(num, seed=seed, tail=0.3), items_of(3, seed=seed + 1)
    rows = np.random.default_rng(seed).permutation(1000)[:num] + 2
    allowed = filter_of(share, size=1002, seed=seed)
    found = exhaustive(builder.build(items, rows)).search(queries, k=k, allowed=allowed)
    assert found.rows.shape == found.scores.shape == (3, k)
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)
    passing = rows[allowed[rows]]
    for own, scores in zip(found.rows, found.scores, strict=True):
        real = own != NO_RESULT
        assert len(set(own[real].tolist())) == real.sum() <= min(k, len(passing))
        assert np.isin(own[real], passing).all()
        assert (scores[~real] == -np.inf).all()
        assert (np.diff(scores[real]) <= 0).all()
        # A graph may not reach an item; everything else reads all here.
        assert real.sum() == min(k, len(passing)) or hasattr(builder, "links")


@each
@pytest.mark.parametrize("share", [1.0, 0.9, 0.6, 0.3, 0.1, 0.01, 0.001])
def test_recall_is_held_under_a_filter(builder, share):
    items, queries = items_of(6000, tail=0.3, width=9), items_of(100, seed=1)
    index = builder.build(items, np.arange(6000) + 2)
    few = {"lists": 3, "beam": 60, "refine": 8, "scanned": 600}
    index = index.with_effort(Effort(**{name: few[name] for name in index.effort.names}))
    allowed = filter_of(share, size=6002)
    own = recall_under(index, items, queries, allowed)
    # Half precision and bytes move the order of near ties; a hundredth at most here.
    assert own >= recall(index, items, queries) - 0.02
    assert share > 0.1 or isinstance(builder, FlatBuilder) or own > 0.99 or "refine" not in index.effort.names


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6, 0.4])
@pytest.mark.parametrize("builder", MANY_LISTS.values(), ids=MANY_LISTS)
def test_recall_is_held_where_what_passes_lies_together_and_away_from_the_queries(builder, share):
    # Items whose first coordinate is highest do not pass, and queries lie among them.
    items, queries = items_of(6000, tail=0.3, width=9), items_of(100, seed=1)
    queries[:, 0] = 2 * np.abs(queries[:, 0]) + 2
    index = builder.build(items, np.arange(6000) + 2)
    allowed = np.zeros(6002, np.bool_)
    allowed[np.argsort(items[:, 0])[: int(share * 6000)] + 2] = True
    # The queries are the hardest that there are: all that lies near them is left out.
    assert recall_under(index, items, queries, allowed) >= recall(index, items, queries) - 0.11


@each
def test_lists_are_counted_anew_with_another_tick_and_not_after_changes(builder):
    items, queries = items_of(600, tail=0.3), items_of(50, seed=1)
    ready = builder.build(items, np.arange(600) + 2).only(filter_of(0.9, size=602))
    ticked = ready.with_last(np.random.default_rng(2).normal(size=602).astype(np.float32))
    for part, other in zip(ready.parts, ticked.parts, strict=True):
        if part.structure.lists is None:
            assert part.structure.num_lists == 0
            continue
        assert (part.structure.lists.sizes.sum(), part.structure.lists.passing.sum()) == (len(part.rows), part.num)
        assert other.structure.lists is not part.structure.lists
        assert other.structure.lists.passing.sum() == part.num
        assert part.without(part.passing.places[:3]).structure.lists is part.structure.lists
    found = exhaustive(ticked).search(queries, k=600)
    assert (found.rows != NO_RESULT).sum(axis=1).max() <= 540


def recall_under(
    index: ItemIndex, items: np.ndarray, queries: np.ndarray, allowed: np.ndarray, *, k: int = 10
) -> float:
    passing = np.flatnonzero(allowed[2:])
    true = passing[np.argsort(-(queries @ items[passing].T), axis=1)[:, :k]] + 2
    found = index.search(queries, k=k, allowed=allowed).rows
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


@each
def test_a_filter_that_nothing_passes_gives_no_result(builder):
    found = builder.build(items_of(300), np.arange(300) + 2).search(items_of(2), k=3, allowed=np.zeros(302, np.bool_))
    assert found.rows.tolist() == [[NO_RESULT] * 3] * 2
    assert found.scores.tolist() == [[-np.inf] * 3] * 2


@each
@pytest.mark.parametrize("share", [0.9, 0.05])
def test_a_filter_once_made_ready_serves_every_search_and_every_tick(builder, share):
    items, queries = items_of(600, tail=0.3), items_of(20, seed=1)
    index = builder.build(items, np.arange(600) + 2)
    allowed = filter_of(share, size=602)
    ready = index.only(allowed)
    assert len(ready) == allowed[2:].sum()
    np.testing.assert_array_equal(ready.search(queries, k=10).rows, index.search(queries, k=10, allowed=allowed).rows)
    values = np.random.default_rng(2).normal(size=602).astype(np.float32)
    found = ready.with_last(values).search(queries, k=10)
    real = found.rows != NO_RESULT
    assert allowed[found.rows[real]].all()
    changed = np.column_stack([items[:, :-1], values[2:]])
    products = np.einsum("nkd,nd->nk", changed[found.rows - 2], queries)
    np.testing.assert_allclose(found.scores[real], products[real], rtol=0.05, atol=0.1)


@each
def test_two_filters_leave_what_passes_both(builder):
    items, queries = items_of(500, tail=0.3), items_of(20, seed=1)
    one, two = filter_of(0.6, size=502, seed=1), filter_of(0.6, size=502, seed=2)
    index = exhaustive(builder.build(items, np.arange(500) + 2))
    both = index.only(one).only(two)
    assert len(both) == (one & two)[2:].sum()
    found = both.search(queries, k=500).rows
    assert (one & two)[found[found != NO_RESULT]].all()


def test_exact_search_under_a_filter_scores_as_without():
    items, queries = items_of(400), items_of(20, seed=1)
    index = FlatBuilder().build(items, np.arange(400) + 2)
    for share in (0.7, 0.05):
        allowed = filter_of(share, size=402)
        found = index.search(queries, k=10, allowed=allowed)
        products = np.einsum("nkd,nd->nk", items[found.rows - 2].astype(np.float64), queries)
        np.testing.assert_allclose(found.scores, products, rtol=1e-5, atol=1e-5)


def test_a_filter_of_another_kind_is_refused():
    index = FlatBuilder().build(items_of(50), np.arange(50) + 2)
    for allowed in (np.ones(51, np.bool_), np.ones(52, np.int64), np.ones((52, 1), np.bool_)):
        with pytest.raises(ValueError, match=r"expected a filter of bool \[R\] by ItemRow, R at least 52; got"):
            index.search(items_of(1), k=3, allowed=allowed)


def test_an_index_with_a_filter_is_not_written(tmp_path):
    index = FlatBuilder().build(items_of(50), np.arange(50) + 2).only(filter_of(0.9, size=52))
    with pytest.raises(UnfitPieces, match="merge it first"):
        index.write(tmp_path / "index.faiss")


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 60),
    size=st.integers(1, 300),
    share=st.floats(0, 1),
    most=st.integers(60, 300),
)
def test_a_search_that_takes_no_filter_is_asked_for_more_until_enough_pass(seed, num, size, share, most):
    # What a GPU does, done by exact search: the first `num` that pass, or those of them among the first `most`.
    generator = np.random.default_rng(seed)
    scores = generator.permutation(size).astype(np.float32)[None]
    passes = generator.random(size) < share
    passes[generator.integers(size)] = True
    ranked = np.argsort(-scores, axis=1)

    def first(wanted: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.full((1, wanted), -1)
        places[:, : min(wanted, size)] = ranked[:, :wanted]
        return np.where(places < 0, -1e9, scores[0, places]).astype(np.float32), places

    found = passing_first(first, Passing.of(passes), num=num, most=most)
    expected = [place for place in ranked[0, :most].tolist() if passes[place]][:num]
    assert found[1].tolist() == [expected + [-1] * (num - len(expected))]
    assert found[0][0, : len(expected)].tolist() == scores[0, expected].tolist()


def test_a_search_whose_lists_hold_no_more_is_not_asked_again():
    asked = []

    def first(wanted: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(wanted)
        places = np.append(np.arange(20), np.full(max(wanted - 20, 0), -1))[None, :wanted]
        return np.zeros(places.shape, np.float32), places

    passing = Passing.of(np.arange(10_000) % 2 == 0)
    assert passing_first(first, passing, num=30, most=10_000)[1].tolist() == [[*range(0, 20, 2), *[-1] * 20]]
    assert asked == [88]  # 1.2 * 30 / .5 + 16


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100))
def test_bits_say_what_the_mask_says(seed, size):
    generator = np.random.default_rng(seed)
    mask = generator.random(size) < 0.5
    passing = Passing.of(mask)
    assert (passing.num, passing.mask.tolist()) == (mask.sum(), mask.tolist())
    assert passing.mask_at(np.arange(-1, size)).tolist() == [False, *mask.tolist()]
    gone = passing.places[generator.random(passing.num) < 0.5]
    mask[gone] = False
    assert (passing.without(gone).num, passing.without(gone).mask.tolist()) == (mask.sum(), mask.tolist())


@each
def test_embeddings_are_taken_out_of_a_part_in_the_order_of_their_rows(builder):
    items = items_of(500, tail=0.3)
    rows = np.random.default_rng(0).permutation(500) + 2
    for part in builder.build(items, rows).parts:
        check_items(part, items, rows)
        check_items(part.without(np.arange(0, len(part.rows), 3)), items, rows)


def check_items(part: Part, items: np.ndarray, rows: np.ndarray) -> None:
    embeddings, own = part.items()
    assert len(own) == part.num
    at = np.argsort(rows)[own - 2]
    step = np.abs(items).max() / 100  # a byte's, and more than half precision's
    np.testing.assert_allclose(embeddings, items[at], atol=step)
    assert (own[np.argsort(part.places_of(own))] == own).all()
    assert (part.places_of(np.array([0, 1, 10**6])) == -1).all()
