"""What holds for every type of index, whatever the norms."""

from collections.abc import Callable

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from towers.errors import UnfitPieces, UnreadableIndex
from towers.index.band import HeaviestApart, HeaviestFirst
from towers.index.build import FlatBuilder, HnswBuilder, IndexBuilder
from towers.index.effort import Effort
from towers.index.gpu_build import IvfPqBuilder
from towers.index.lists import IvfFastScanBuilder, IvfFlatBuilder, IvfSq8Builder
from towers.index.search import NO_RESULT, ItemIndex

FloatArray = NDArray[np.float32]

LISTS = {
    "ivf_flat": IvfFlatBuilder(lists=4, probes=2),
    "ivf_flat by product": IvfFlatBuilder(lists=4, probes=2, on_sphere=False),
    "ivf_sq8": IvfSq8Builder(lists=4, probes=2, refine=2),
    "ivf_fast_scan": IvfFastScanBuilder(lists=4, probes=2, coordinates_a_code=2, refine=2),
    "fast_scan": IvfFastScanBuilder(lists=1, probes=1, coordinates_a_code=2, refine=2, on_sphere=False),
    "ivf_rotated": IvfFastScanBuilder(
        lists=4,
        probes=2,
        coordinates_a_code=1,
        refine=1.5,
        on_sphere=False,
        of_residuals=True,
        principal_share=0.5,
        rotated=True,
    ),
    "principal on the sphere": IvfFastScanBuilder(
        lists=4, probes=2, coordinates_a_code=2, refine=2, principal_share=0.7
    ),
    "heaviest apart": HeaviestApart(share=0.1, builder=IvfSq8Builder(lists=4, probes=2, refine=2)),
}
TYPES: dict[str, IndexBuilder] = {
    "flat": FlatBuilder(),
    "heaviest first": HeaviestFirst(scanned=40),
    "hnsw": HnswBuilder(links=8, build_beam=40, search_beam=40),
    "hnsw by angle": HnswBuilder(links=8, build_beam=40, search_beam=40, normalised=True),
    **LISTS,
}
NO_LIMIT = {"lists": 10**6, "beam": 10**6, "refine": 10**6, "scanned": 10**6}
each = pytest.mark.parametrize("builder", TYPES.values(), ids=TYPES)
each_of_lists = pytest.mark.parametrize("builder", LISTS.values(), ids=LISTS)


def items_of(num: int, *, seed: int = 0, width: int = 9, tail: float = 1.0) -> FloatArray:
    """Directions alike, norms log-normal."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=(num, width)) * np.exp(tail * generator.normal(size=(num, 1)))
    return items.astype(np.float32)


def exhaustive(index: ItemIndex) -> ItemIndex:
    return index.with_effort(Effort(**{name: NO_LIMIT[name] for name in index.effort.names}))


def recall(index: ItemIndex, items: FloatArray, queries: FloatArray, *, k: int = 10) -> float:
    """Share of the true first k that a search finds, where ItemRows are places + 2."""
    truth = np.argsort(-(queries @ items.T), axis=1)[:, :k] + 2
    found = index.search(queries, k=k).rows
    shares = [len(set(own) & set(true)) / k for own, true in zip(found.tolist(), truth.tolist(), strict=True)]
    return float(np.mean(shares))


@each
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), num=st.integers(1, 120), k=st.integers(1, 140), tail=st.floats(0, 2), data=st.data()
)
def test_what_is_found_are_distinct_items_with_their_true_products_best_first(builder, seed, num, k, tail, data):
    items, queries = items_of(num, seed=seed, tail=tail), items_of(3, seed=seed + 1)
    items[data.draw(st.lists(st.integers(0, num - 1), max_size=5))] = 0.0
    items[data.draw(st.integers(0, num - 1))] = items[data.draw(st.integers(0, num - 1))]
    rows = np.random.default_rng(seed).permutation(1000)[:num] + 2
    found = builder.build(items, rows).search(queries, k=k)
    assert found.rows.shape == found.scores.shape == (3, k)
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)
    place = {row: at for at, row in enumerate(rows.tolist())}
    for query, own, scores in zip(queries, found.rows, found.scores, strict=True):
        real = own != NO_RESULT
        assert real.any()
        assert not real[real.argmin() :].any() or real.all()
        assert (scores[~real] == -np.inf).all()
        assert len(set(own[real].tolist())) == real.sum()
        places = [place[row] for row in own[real].tolist()]
        bound = np.abs(items[places]) @ np.abs(query) * 1e-6
        assert (np.abs(scores[real] - items[places].astype(np.float64) @ query) <= bound + 1e-30).all()
        assert (np.diff(scores[real]) <= 0).all()


@each_of_lists
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 400), k=st.integers(1, 420))
def test_with_nothing_left_out_approximate_search_is_exact(builder, seed, num, k):
    # Whole numbers, so that products are exact; ties are many, and any order of them is right.
    generator = np.random.default_rng(seed)
    items, queries = (generator.integers(-9, 10, size=(size, 7)).astype(np.float32) for size in (num, 3))
    index = exhaustive(builder.build(items, np.arange(num) + 2))
    found, exact = index.search(queries, k=k), FlatBuilder().build(items, np.arange(num) + 2).search(queries, k=k)
    np.testing.assert_array_equal(found.scores, exact.scores)
    assert ((found.rows == NO_RESULT) == (exact.rows == NO_RESULT)).all()


@each
def test_one_item_is_found_and_nothing_beside_it(builder):
    found = builder.build(np.array([[3, 4, 0]], dtype=np.float32), np.array([7])).search(np.eye(3)[:2], k=3)
    assert found.rows.tolist() == [[7, NO_RESULT, NO_RESULT]] * 2
    assert found.scores.tolist() == [[3, -np.inf, -np.inf], [4, -np.inf, -np.inf]]


@each
def test_items_alike_are_all_found(builder):
    items = np.tile(np.array([[1, 2, 2]], dtype=np.float32), (100, 1))
    found = exhaustive(builder.build(items, np.arange(100) + 2)).search(items[:1], k=20)
    assert len(set(found.rows[0].tolist())) == 20
    assert (found.scores == 9).all()


@each
def test_items_of_zeros_alone_score_nothing(builder):
    found = exhaustive(builder.build(np.zeros((50, 4), np.float32), np.arange(50) + 2)).search(np.ones((1, 4)), k=5)
    assert (found.scores == 0).all()


@each
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_no_number_or_of_another_width_is_refused(builder, broken):
    items = items_of(60)
    index = builder.build(items, np.arange(60) + 2)
    for queries, message in ((items[:, :8], r"\[N, 9\]; got \(60, 8\)"), (items * broken, "NaN or infinity")):
        with pytest.raises(ValueError, match=message):
            index.search(queries, k=3)
    with pytest.raises(ValueError, match="hold NaN or infinity; the towers did not train"):
        builder.build(items * broken, np.arange(60) + 2)


@each
def test_what_overflows_is_refused_before_faiss_sees_it(builder):
    items = items_of(200)
    items[7] = -1e19
    with pytest.raises(ValueError, match=r"beyond 1e\+18, where products overflow"):
        builder.build(items, np.arange(200) + 2)


@each
def test_an_index_read_from_its_file_answers_the_same(builder, tmp_path):
    items, queries = items_of(300), items_of(5, seed=1)
    index = builder.build(items, np.arange(300) + 2)
    index.write(tmp_path / "index.faiss")
    read = ItemIndex.read(tmp_path / "index.faiss")
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]
    assert (len(read), read.width, read.effort) == (300, 9, index.effort)
    for own in (read, read.with_last(np.ones(302, np.float32))):
        expected = (index if own is read else index.with_last(np.ones(302, np.float32))).search(queries, k=20)
        np.testing.assert_array_equal(own.search(queries, k=20).rows, expected.rows)
        np.testing.assert_array_equal(own.search(queries, k=20).scores, expected.scores)


@each
@settings(deadline=None, max_examples=15)
@given(share=st.floats(0, 0.999))
def test_a_file_that_ends_early_is_refused(builder, share, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    builder.build(items_of(50), np.arange(50) + 2).write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnreadableIndex, match=r"index\.faiss is not a readable index .*build it again"):
        ItemIndex.read(path)


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_file_in_which_a_bit_changed_is_refused_or_answers_the_same(share, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    items = items_of(50)
    index = LISTS["ivf_sq8"].build(items, np.arange(50) + 2)
    index.write(path)
    whole = bytearray(path.read_bytes())
    whole[int(share * len(whole))] ^= 1 << bit
    path.write_bytes(whole)
    try:
        read = ItemIndex.read(path)
    except UnreadableIndex:
        return
    np.testing.assert_array_equal(read.search(items, k=5).scores, index.search(items, k=5).scores)


@pytest.mark.parametrize(
    "make",
    [lambda file: np.savez(file, other=np.zeros(3)), lambda file: np.save(file, np.zeros(3)), lambda file: None],
    ids=["another archive", "an array", "nothing"],
)
def test_a_file_of_another_kind_is_refused(make: Callable[[object], None], tmp_path):
    with (tmp_path / "index.faiss").open("wb") as file:
        make(file)
    with pytest.raises(UnreadableIndex, match="build it again"):
        ItemIndex.read(tmp_path / "index.faiss")


@each
def test_another_last_coordinate_is_searched_in_a_copy(builder):
    items, queries = items_of(600), items_of(20, seed=1)
    index = builder.build(items, np.arange(600) + 2)
    before = index.search(queries, k=10)
    values = np.random.default_rng(2).normal(scale=3, size=602).astype(np.float32)
    changed = items.copy()
    changed[:, -1] = values[2:]
    other = index.with_last(values)
    assert other.effort == index.effort
    # A graph keeps links that were made for other products; everything else is exact if it reads all.
    assert recall(exhaustive(other), changed, queries) >= (0.9 if index.effort.beam else 1.0)
    found = exhaustive(other).search(queries, k=10)
    products = np.einsum("nkd,nd->nk", changed[found.rows - 2], queries)
    np.testing.assert_allclose(found.scores, products, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(index.search(queries, k=10).scores, before.scores)


@each_of_lists
def test_codes_by_the_former_ranges_find_nearly_as_much_as_an_index_built_anew(builder):
    # The last coordinate grows beyond the ranges and codebooks that were learned; the query's is 1, as of a bias.
    items, queries = items_of(2000, tail=0.5), items_of(100, seed=1)
    queries[:, -1] = 1.0
    values = np.append([0, 0], 1.3 * items[:, -1] + 0.2 * items_of(2000, seed=2)[:, 0]).astype(np.float32)
    changed = np.column_stack([items[:, :-1], values[2:]])
    rows = np.arange(2000) + 2
    indexes = (builder.build(items, rows).with_last(values), builder.build(changed, rows))
    few = {"lists": NO_LIMIT["lists"], "refine": 5}
    former, anew = (
        recall(index.with_effort(Effort(**{name: few[name] for name in index.effort.names})), changed, queries)
        for index in indexes
    )
    assert former > anew - 0.05


@each
def test_effort_is_set_without_building_again_and_more_of_it_finds_more(builder):
    items, queries = items_of(1500, tail=0.3), items_of(100, seed=1)
    index = builder.build(items, np.arange(1500) + 2)
    least, most = index.with_effort(Effort(**dict.fromkeys(index.effort.names, 1))), exhaustive(index)
    assert least.parts[0].structure is index.parts[0].structure
    assert recall(most, items, queries) >= recall(index, items, queries) >= recall(least, items, queries)
    assert index.effort.names == () or recall(most, items, queries) > recall(least, items, queries)


def test_an_effort_of_other_settings_is_refused():
    index = LISTS["ivf_sq8"].build(items_of(50), np.arange(50) + 2)
    with pytest.raises(
        UnfitPieces, match=r"by Effort\(lists=2, beam=None, refine=2, scanned=None\); got Effort\(lists=None, beam=7"
    ):
        index.with_effort(Effort(beam=7))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"lists": 0}, "lists .*; got 0"), ({"refine": 0.5}, "refine .* 0.5"), ({"refine": np.inf}, "refine .* inf")],
)
def test_an_effort_that_reads_nothing_or_without_end_is_refused(given, said):
    with pytest.raises(UnfitPieces, match=f"expected {said}"):
        Effort(**given)


def test_scalar_quantisers_have_a_width_that_faiss_decodes_at_once():
    for builder in (FlatBuilder(half=True), LISTS["ivf_sq8"]):
        index = builder.build(items_of(50), np.arange(50) + 2)
        assert (index.width, index.parts[0].structure.width) == (9, 16)


def test_half_precision_scores_by_rounded_embeddings():
    items, queries = items_of(300, tail=0.3), items_of(5, seed=1)
    rounded = items.astype(np.float16).astype(np.float32)
    found = FlatBuilder(half=True).build(items, np.arange(300) + 2).search(queries, k=300)
    products = np.einsum("nkd,nd->nk", rounded[found.rows - 2], queries)
    np.testing.assert_allclose(found.scores, products, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnfitPieces, match="half precision ends at 65504; got 70000: choose index=flat"):
        FlatBuilder(half=True).build(np.full((2, 3), 7e4, np.float32), np.arange(2))


def test_bytes_alone_score_by_what_they_say_at_every_tick():
    items, queries, rows = items_of(2000, tail=0.3), items_of(20, seed=1), np.arange(2000) + 2
    index = exhaustive(IvfSq8Builder(lists=16, probes=4, refine=None).build(items, rows))
    assert index.effort.names == ("lists",)
    # A coordinate is off by half of a 255th of its range at most; another tick changes nothing but the last one.
    step = (items.max(axis=0) - items.min(axis=0)) / 255
    values = np.append([0, 0], items[:, -1][::-1]).astype(np.float32)
    for own, held in ((index, items), (index.with_last(values), np.column_stack([items[:, :-1], values[2:]]))):
        found = own.search(queries, k=100)
        products = np.einsum("nkd,nd->nk", held[found.rows - 2], queries)
        assert (np.abs(found.scores - products) <= 0.51 * (np.abs(queries) @ step)[:, None]).all()
        assert recall(own, held, queries, k=100) > 0.95


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_no_rest_is_refused(share):
    with pytest.raises(UnfitPieces, match="leave HeaviestApart out"):
        HeaviestApart(share=share, builder=FlatBuilder())


def test_lists_on_the_sphere_find_more_in_fewer_items_where_norms_differ():
    items, queries = items_of(8000, width=16), items_of(100, seed=1, width=16)
    recalls, num_read = [], []
    for on_sphere in (True, False):
        index = IvfFlatBuilder(lists=64, probes=24, on_sphere=on_sphere).build(items, np.arange(8000) + 2)
        faiss.cvar.indexIVF_stats.reset()
        recalls.append(recall(index, items, queries))
        num_read.append(faiss.cvar.indexIVF_stats.ndis)
    assert recalls[0] > recalls[1]
    assert num_read[0] < num_read[1] / 5


def test_a_file_of_before_there_were_parts_is_read(tmp_path):
    items, queries = items_of(40), items_of(3, seed=1)
    for inner in (faiss.IndexFlatIP(9), faiss.IndexHNSWFlat(9, 8, faiss.METRIC_INNER_PRODUCT)):
        bare = faiss.IndexIDMap2(inner)
        bare.add_with_ids(items, np.arange(40) + 2)
        faiss.write_index(bare, str(tmp_path / "index.faiss"))
        read, expected = ItemIndex.read(tmp_path / "index.faiss"), FlatBuilder().build(items, np.arange(40) + 2)
        found = read.search(queries, k=5)
        np.testing.assert_array_equal(found.rows, expected.search(queries, k=5).rows)
    assert read.effort == Effort(beam=16)


def test_a_byte_a_code_works_on_a_cpu():
    items, queries = items_of(1000, tail=0.5), items_of(50, seed=1)
    builder = IvfPqBuilder(lists=8, probes=8, coordinates_a_code=3, refine=4)
    assert recall(builder.build(items, np.arange(1000) + 2), items, queries) > 0.9
    with pytest.raises(UnfitPieces, match="need 101 bytes, and a GPU has 96 at most: raise coordinates_a_code"):
        IvfPqBuilder(lists=8, probes=8, coordinates_a_code=3, refine=4).build(items_of(3, width=300), np.arange(3))


def test_of_the_heaviest_first_the_lightest_are_not_looked_at() -> None:
    # Norms 1, 2, 3, 4 along one axis: of two that are scanned the heaviest two are found, in whatever order they came.
    items = np.array([[2, 0], [4, 0], [1, 0], [3, 0]], dtype=np.float32)
    index = HeaviestFirst(scanned=2).build(items, np.array([5, 6, 7, 8]))
    found = index.search(np.array([[-1, 0]], dtype=np.float32), k=2)
    assert found.rows.tolist() == [[8, 6]]  # of all four the lightest, row 7, has the largest product
    # As many as are asked for are looked at in any case.
    assert index.search(np.array([[-1, 0]], dtype=np.float32), k=3).rows.tolist() == [[5, 8, 6]]
    assert not index.is_exact
    # A filter asks for what passes: the lightest is found among few.
    allowed = np.isin(np.arange(9), [5, 7])
    assert index.search(np.array([[1, 0]], dtype=np.float32), k=3, allowed=allowed).rows.tolist() == [[5, 7, NO_RESULT]]
