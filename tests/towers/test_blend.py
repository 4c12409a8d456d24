"""Blends: one inner product of several parts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from features.statistics import STATISTICS
from features.vocab import FIRST, PADDING
from towers.retrievers.bags import HALF_LIFE_DAYS, NUM_BAGS, history_bags
from towers.retrievers.blend import POPULARITY, Blend, popularity


def test_bags_match_hand_computation():
    embeddings = np.zeros((6, 2), dtype=np.float32)
    embeddings[FIRST], embeddings[FIRST + 1] = (1.0, 0.0), (0.0, 1.0)
    seen = np.array([[FIRST + 1, FIRST, FIRST + 1, PADDING]])  # newest first: the third event repeats the first
    ages = np.array([[0.0, HALF_LIFE_DAYS, 9.0, 0.0]], dtype=np.float32)
    bags = history_bags(embeddings, seen_rows=seen, seen_age_days=ages)
    weights = np.array([[1.0, 1.0], [2**-0.5, 1.0], [0.5, 1.0]])  # of FIRST and FIRST + 1 in each bag
    np.testing.assert_allclose(bags[0], weights / np.sqrt(weights.sum(axis=1, keepdims=True)), rtol=1e-6)


def test_a_query_without_history_has_empty_bags():
    nothing = np.zeros((2, 0))
    bags = history_bags(np.ones((4, 3), np.float32), seen_rows=nothing.astype(int), seen_age_days=nothing)
    assert bags.shape == (2, NUM_BAGS, 3)
    assert not bags.any()


def test_the_inner_product_is_the_weighted_sum_of_the_parts():
    generator = np.random.default_rng(1)
    learned_q, bags = generator.normal(size=(3, 4)), generator.normal(size=(3, NUM_BAGS, 5))
    learned_i, linear = generator.normal(size=(7, 4)), generator.normal(size=(7, 5))
    text_q, text_i = generator.normal(size=(3, 6)), generator.normal(size=(7, 6))
    statistics = generator.integers(0, 90, size=(7, len(STATISTICS))).astype(np.float32)
    blend = Blend(learned=2.0, bags=(0.5, -1.0, 3.0), popularity=(0.1, 0.2, 0.3, -0.4), text=1.5)
    items = blend.item_embeddings(learned_i, linear, text_i, statistics)
    scores = blend.query_embeddings(learned_q, bags, text_q) @ items.T
    expected = 2.0 * learned_q @ learned_i.T
    expected += sum(weight * bags[:, b] @ linear.T for b, weight in enumerate(blend.bags))
    expected += popularity(statistics) @ np.array(blend.popularity) + 1.5 * text_q @ text_i.T
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    alone = blend.text_alone
    items = alone.item_embeddings(learned_i, linear, text_i, statistics)
    np.testing.assert_allclose(alone.query_embeddings(learned_q, bags, text_q) @ items.T, text_q @ text_i.T, rtol=1e-5)


def test_popularity_is_the_logarithm_of_the_counts_alone():
    statistics = np.full((1, len(STATISTICS)), 7.0, dtype=np.float32)
    assert POPULARITY == ("count_all", "count_1d", "count_7d", "count_30d")
    np.testing.assert_allclose(popularity(statistics), np.full((1, 4), np.log(8.0)), rtol=1e-6)


def test_a_blend_comes_back_from_its_file_and_refuses_another_layout(tmp_path):
    blend = Blend(learned=1.5, bags=(1.0, 2.0, 3.0), popularity=(0.0, 0.0, 0.25, 0.5), text=0.75)
    blend.write(tmp_path / "blend.json")
    assert Blend.read(tmp_path / "blend.json") == blend == Blend.of_weights(blend.weights)
    # where nothing is said, no weight is fitted for it, and older files have none
    silent = replace(blend, text=0.0)
    assert Blend.of_weights(blend.weights[:-1]) == silent
    document = json.loads((tmp_path / "blend.json").read_text())
    del document["text"]
    (tmp_path / "blend.json").write_text(json.dumps(document))
    assert Blend.read(tmp_path / "blend.json") == silent
    with pytest.raises(ValueError, match="expected 3 weights of bags and 4 of popularity; got 2 and 4"):
        Blend(bags=(1.0, 2.0))
    with pytest.raises(ValueError, match="must be finite"):
        Blend(learned=float("nan"))


def test_of_learned_embeddings_the_first_coordinates_may_do(tmp_path):
    generator = np.random.default_rng(1)
    learned_q, learned_i = generator.normal(size=(3, 4)), generator.normal(size=(7, 4))
    bags, linear, statistics = np.zeros((3, NUM_BAGS, 0)), np.zeros((7, 0)), np.zeros((7, len(STATISTICS)))
    blend = Blend(learned=2.0, learned_width=3)
    no_text = np.zeros((3, 0)), np.zeros((7, 0))
    items = blend.item_embeddings(learned_i, linear, no_text[1], statistics)
    scores = blend.query_embeddings(learned_q, bags, no_text[0]) @ items.T
    np.testing.assert_allclose(scores, 2.0 * learned_q[:, :3] @ learned_i[:, :3].T, rtol=1e-5)
    blend.write(tmp_path / "blend.json")
    assert Blend.read(tmp_path / "blend.json") == blend
    assert Blend(learned=2.0, popularity=(1.0,) * 4, learned_width=3).learned_alone == Blend(learned_width=3)
