import numpy as np
import pytest

from towers.errors import UnfitPieces, UnreadableIndex
from towers.index.build import FlatBuilder
from towers.index.effort import Effort
from towers.index.index_file import read_parts
from towers.index.lists import IvfFastScanBuilder
from towers.index.principal import principal_axes


def flat_cloud(num: int, *, width: int = 24, directions: int = 4, noise: float = 0.02, seed: int = 0):
    """Items [num, width] that lie near a space of few directions, which are no coordinates."""
    generator = np.random.default_rng(seed)
    space, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(width, directions)))
    items = generator.normal(size=(num, directions)) @ space.T + noise * generator.normal(size=(num, width))
    return items.astype(np.float32)


def builder(**changed):
    given = {"lists": 1, "probes": 1, "coordinates_a_code": 1, "refine": 1, "on_sphere": False}
    return IvfFastScanBuilder(**{**given, **changed})


def test_axes_are_orthonormal_and_keep_what_the_largest_singular_values_say():
    items = flat_cloud(3000, noise=0.3)
    axes = principal_axes(items, num=6)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)
    expected = (np.linalg.svd(items, compute_uv=False)[:6] ** 2).sum()
    np.testing.assert_allclose(((items @ axes) ** 2).sum(), expected, rtol=1e-4)


def test_the_mean_counts():
    items = 5 + np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    axes = principal_axes(items, num=1)
    np.testing.assert_allclose(np.abs(axes[:, 0]), 8**-0.5, atol=0.02)


def test_the_strongest_is_first():
    items = flat_cloud(3000, directions=8) * np.linspace(5, 0.2, 24, dtype=np.float32)
    squares = ((items @ principal_axes(items, num=8)) ** 2).sum(axis=0)
    np.testing.assert_allclose(squares, np.linalg.svd(items, compute_uv=False)[:8] ** 2, rtol=1e-4)


def test_rotated_axes_span_the_same_space_and_each_has_a_like_part():
    items = flat_cloud(3000, directions=8) * np.linspace(5, 0.2, 24, dtype=np.float32)
    axes, rotated = principal_axes(items, num=8), principal_axes(items, num=8, rotated=True)
    np.testing.assert_allclose(rotated @ rotated.T, axes @ axes.T, atol=1e-5)
    own, other = (((items @ those) ** 2).mean(axis=0) for those in (axes, rotated))
    assert other.std() < 0.7 * own.std()


@pytest.mark.parametrize("rotated", [False, True])
def test_the_same_items_have_the_same_axes(rotated):
    items = flat_cloud(400)
    first, again = (principal_axes(own, num=3, rotated=rotated) for own in (items, items.copy()))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_items_of_any_size_have_axes(size):
    axes = principal_axes(flat_cloud(400) * np.float32(size), num=4)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-5)


def test_few_principal_coordinates_order_flat_clouds_as_well_as_all_in_a_sixth_of_the_codes():
    items, queries = flat_cloud(4000), flat_cloud(50, seed=1)
    rows = np.arange(4000) + 1
    exact = FlatBuilder().build(items, rows).search(queries, k=50).rows

    def found(**changed) -> float:
        rows_found = builder(**changed).build(items, rows).search(queries, k=50).rows
        return float(np.mean([len(set(a) & set(b)) / 50 for a, b in zip(rows_found, exact, strict=True)]))

    few, as_many_unturned, every = (
        found(refine=1.5, principal_share=1 / 6),
        found(refine=1.5, coordinates_a_code=6),
        found(refine=1.5),
    )
    assert few > every - 0.08
    assert few > as_many_unturned + 0.1


def test_residuals_say_more_than_items_as_they_are():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(20, 16))
    items = (centres[generator.integers(20, size=4000)] + 0.1 * generator.normal(size=(4000, 16))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries, rows = items[::80], np.arange(4000) + 1
    exact = FlatBuilder().build(items, rows).search(queries, k=20).rows
    shares = []
    for of_residuals in (False, True):
        index = builder(lists=20, probes=20, of_residuals=of_residuals).build(items, rows)
        found = index.search(queries, k=20).rows
        shares.append(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, exact, strict=True)]))
    assert shares[1] > shares[0] + 0.1


def test_a_part_of_k_is_scored_again():
    items, queries = flat_cloud(2000, noise=0.5), flat_cloud(100, noise=0.5, seed=1)
    index = builder(principal_share=0.5).build(items, np.arange(2000) + 1)
    exact = FlatBuilder().build(items, np.arange(2000) + 1).search(queries, k=1).scores.sum()
    # Of 1, 2, 3 and all candidates: what is no whole number is rounded up.
    found = [
        index.with_effort(Effort(lists=1, refine=refine)).search(queries, k=1).scores.sum()
        for refine in (1, 1.4, 2.1, 2000)
    ]
    assert found[0] < found[1] < found[2] < found[3]
    np.testing.assert_allclose(found[3], exact, rtol=1e-6)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UnfitPieces, match=r"share of the coordinates in \(0, 1\]; got principal_share="):
        builder(principal_share=share)


def test_residuals_on_the_sphere_are_refused():
    with pytest.raises(UnfitPieces, match="chosen by product; give on_sphere=false"):
        builder(on_sphere=True, of_residuals=True)


def test_a_rotation_of_all_coordinates_is_refused():
    with pytest.raises(UnfitPieces, match="give principal_share below 1"):
        builder(rotated=True)


@pytest.mark.parametrize("shape", [(24, 7), (23, 12), (24,)])
def test_a_file_whose_axes_do_not_fit_is_refused(shape, tmp_path):
    builder(principal_share=0.5).build(flat_cloud(200), np.arange(200) + 1).write(tmp_path / "index.npz")
    with np.load(tmp_path / "index.npz") as arrays:
        changed = {**arrays, "0.axes": np.zeros(shape, np.float32)}
    np.savez(tmp_path / "index.npz", **changed)
    with pytest.raises(UnreadableIndex, match=r"has axes .* from 24 to 12 coordinates"):
        read_parts(tmp_path / "index.npz")


def test_axes_count_as_memory():
    part = builder(principal_share=0.5).build(flat_cloud(200), np.arange(200) + 1).parts[0]
    arrays = 200 * 8 + 24 * 12 * 4 + 200 * 24 * 4  # rows, axes, embeddings
    assert part.num_bytes == arrays + part.structure.num_bytes
