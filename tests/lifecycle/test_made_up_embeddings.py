"""Embeddings that are made up."""

import numpy as np
import pytest

from lifecycle import made_up_embeddings
from lifecycle.made_up_embeddings import Clouds


def clouds(*, seed: int = 1) -> Clouds:
    return Clouds(width=32, generator=np.random.default_rng(seed))


def test_items_of_a_cluster_lie_together_and_queries_lie_among_them():
    own = clouds()
    items, queries = own.items(20_000, tail=0.0), own.queries(200)
    same = queries.clusters[:, None] == items.clusters
    angles = queries.embeddings @ items.embeddings.T
    # A cluster's deviation is .6 of that between centres, so two of one have a cosine of 1 / (1 + .36), but for noise.
    assert angles[same].mean() > 0.65
    assert abs(angles[~same].mean()) < 0.1


def test_norms_are_log_normal():
    lengths = np.log(np.linalg.norm(clouds().items(20_000, tail=0.6).embeddings, axis=1))
    assert lengths.mean() == pytest.approx(0.0, abs=3 * 0.6 / 20_000**0.5)
    assert lengths.std() == pytest.approx(0.6, rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(clouds().items(100, tail=0.0).embeddings, axis=1), 1.0, rtol=1e-6)


def test_chunks_are_the_items_and_a_seed_says_all():
    num = 2 * made_up_embeddings.IN_A_CHUNK + 5
    whole, chunks = clouds().items(num, tail=0.6), list(clouds().chunks(num, tail=0.6))
    assert [len(own.clusters) for own in chunks] == [100_000, 100_000, 5]
    np.testing.assert_array_equal(whole.embeddings, np.concatenate([own.embeddings for own in chunks]))
    np.testing.assert_array_equal(whole.clusters, np.concatenate([own.clusters for own in chunks]))
    assert not np.array_equal(clouds(seed=2).queries(3).embeddings, clouds().queries(3).embeddings)
