"""Indexes on a GPU. What is marked gpu compares them with exact search on the CPU."""

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from towers.errors import GpuMissing
from towers.index.build import FlatBuilder, IndexBuilder
from towers.index.gpu_build import CagraBuilder, IvfPqBuilder, OnGpu
from towers.index.lists import IvfFlatBuilder, IvfSq8Builder
from towers.index.search import ItemIndex

HAS_GPU = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
NUM = 20_000

BUILDERS: dict[str, IndexBuilder] = {
    "flat": OnGpu(builder=FlatBuilder()),
    "ivf_flat": OnGpu(builder=IvfFlatBuilder(lists=64, probes=64)),
    "ivf_flat by product": OnGpu(builder=IvfFlatBuilder(lists=64, probes=64, on_sphere=False)),
    "ivf_sq8": OnGpu(builder=IvfSq8Builder(lists=64, probes=64, refine=4)),
    "ivf_pq": OnGpu(builder=IvfPqBuilder(lists=64, probes=64, coordinates_a_code=2, refine=8)),
    "cagra": CagraBuilder(links=32, search_beam=512),
}
each = pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)


def items_of(num: int, *, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(num, 31)) * np.exp(0.5 * generator.normal(size=(num, 1)))).astype(np.float32)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@each
def test_without_a_gpu_it_is_said_what_is_missing(builder):
    with pytest.raises(GpuMissing, match=r"searched on an NVIDIA GPU, and Faiss .* index=flat$"):
        builder.build(items_of(50, seed=0), np.arange(50) + 2)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU that Faiss can use")
@each
def test_a_search_on_the_gpu_finds_what_exact_search_finds_and_scores_it_alike(builder, tmp_path):
    if isinstance(builder, CagraBuilder) and not hasattr(faiss, "GpuIndexCagra"):
        pytest.skip("this Faiss has no cuVS")
    items, queries, rows = items_of(NUM, seed=0), items_of(50, seed=1), np.arange(NUM) + 2
    index = builder.build(items, rows)
    index.write(tmp_path / "index.faiss")
    values = items_of(NUM + 2, seed=2)[:, 0]
    changed = np.column_stack([items[:, :-1], values[2:]])
    for own, held in ((index, items), (ItemIndex.read(tmp_path / "index.faiss"), items)):
        compare(own, held, queries, rows)
    compare(index.with_last(values), changed, queries, rows)


def compare(
    index: ItemIndex, items: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.int64]
) -> None:
    found, exact = index.search(queries, k=100), FlatBuilder().build(items, rows).search(queries, k=100)
    shares = [len(set(own) & set(true)) / 100 for own, true in zip(found.rows, exact.rows, strict=True)]
    assert np.mean(shares) > 0.95
    products = np.einsum("nkd,nd->nk", items[found.rows - 2], queries)
    np.testing.assert_allclose(found.scores, products, rtol=1e-4, atol=1e-3)
