"""Recall and its gate, the least effort, and the choice among types."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from towers.errors import GoalsNotMet, RecallTooLow, UnfitPieces
from towers.index.band import HeaviestFirst
from towers.index.build import FlatBuilder, HnswBuilder
from towers.index.effort import Effort
from towers.index.lists import IvfFlatBuilder
from towers.index.operate import Efforts
from towers.index.recall import HeldOut, RecallGate, lower_bound
from towers.index.recipes import TYPES, Recipe, recipes
from towers.index.tune import Goals, around, curve, forecast, swept, tuned

NO_LIMIT = Goals(recall=0.9, k=10, latency_ms=1e6, memory_gb=1e3)


def drawn(num: int, *, seed: int, width: int = 16) -> NDArray[np.float32]:
    """In a few directions, so that lists help."""
    generator = np.random.default_rng(seed)
    basis = np.random.default_rng(0).normal(size=(4, width))
    noise = 0.1 * generator.normal(size=(num, width))
    return (generator.normal(size=(num, 4)) @ basis + noise).astype(np.float32)


def some(num_items: int, num_queries: int = 60, *, k: int = 10) -> HeldOut:
    return HeldOut(drawn(num_items, seed=1), np.arange(num_items) + 2, drawn(num_queries, seed=2), k)


def test_recall_matches_hand_computation() -> None:
    # Products with (1, 0): 4, 3, 3, 1, so the first two are 4 and either 3; an index of items 0, 2 and 3 has both.
    items = np.array([[4, 0], [3, 1], [3, 2], [1, 0]], dtype=np.float32)
    known = HeldOut(items, np.array([5, 6, 7, 8]), np.array([[1, 0], [0, 1]], dtype=np.float32), 2)
    assert known.recalls(known.exact).tolist() == [1.0, 1.0]
    # With (0, 1): 2 and 1 are the first; items 2 and then 0 or 3, both 0, are found: one of two.
    fewer = FlatBuilder().build(items[[0, 2, 3]], np.array([5, 7, 8]))
    assert known.recalls(fewer).tolist() == [1.0, 0.5]


def test_recall_of_more_items_than_there_are_is_of_all_of_them() -> None:
    known = some(7, k=100)
    assert known.k == 7
    assert known.recalls(known.exact).tolist() == [1.0] * 60


def test_the_lower_bound_matches_hand_computation() -> None:
    # Deviation .1 of 5 queries: .9 - 1.64 * .1 / 2.
    assert lower_bound(np.array([0.8, 1.0, 0.8, 1.0, 0.9]), k=10) == pytest.approx(
        0.9 - 1.64 * np.std([0.8, 1.0, 0.8, 1.0, 0.9]) / 2
    )
    assert lower_bound(np.ones(50), k=10) == pytest.approx(1 - 1.64 / 500)


def test_the_bound_holds_on_unseen_queries_in_19_of_20_samples() -> None:
    generator = np.random.default_rng(0)
    samples = generator.binomial(100, generator.beta(19, 1, size=(1000, 200))) / 100
    held = np.array([lower_bound(sample, k=100) for sample in samples]) <= 0.95
    assert 0.92 <= held.mean() <= 0.98


def test_the_gate_refuses_a_graph_with_a_beam_of_one_and_lets_the_default_pass() -> None:
    known, gate = some(3000), RecallGate(k=10, target=0.95)
    index = HnswBuilder(links=32, build_beam=200, search_beam=256).build(known.items, known.rows)
    assert gate.passed(index, known) > 0.95
    with pytest.raises(RecallTooLow, match=r"finds 0\.\d+ of the true first 10 of 60 held-out queries; expected 0.95"):
        gate.passed(index.with_effort(Effort(beam=1)), known)


@pytest.mark.parametrize("wrong", [{"target": 1.5}, {"k": 0}, {"max_queries": 0}])
def test_a_gate_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UnfitPieces, match="target between 0 and 1"):
        RecallGate(**wrong)  # type: ignore[arg-type]


def test_without_queries_nothing_is_measured() -> None:
    with pytest.raises(UnfitPieces, match="measured on queries; got none"):
        some(50, 0)


def test_bisection_finds_the_least_number_of_lists() -> None:
    known = some(4000)
    index = IvfFlatBuilder(lists=60, probes=1).build(known.items, known.rows)
    efforts = Efforts(index, known, target=0.9)
    (found,), best = efforts.least()
    least = next(num for num in range(1, 61) if efforts.reached(Effort(lists=num)).low >= 0.9)
    assert found.effort.lists == pytest.approx(least, rel=0.05, abs=1)
    assert found.low >= 0.9
    assert best.low >= found.low


def test_what_takes_too_long_is_given_up_and_said_to_fall_short() -> None:
    known = some(4000)
    index = IvfFlatBuilder(lists=60, probes=1).build(known.items, known.rows)
    found, best = Efforts(index, known, target=0.999, give_up_ms=0.0).least()
    assert found == []
    assert best.effort == Effort(lists=8)


def test_the_least_of_the_heaviest_that_hold_the_first_k_is_found() -> None:
    # Along one axis, norms 1 to 400, the odd ones away from the queries: the first 10, 400 to 382, lie in the first 19.
    lengths = np.arange(1, 401, dtype=np.float32) * np.tile(np.array([-1, 1], np.float32), 200)
    items = lengths[:, None] * np.array([[1, 0]], dtype=np.float32)
    known = HeldOut(items, np.arange(400) + 1, np.ones((50, 2), np.float32), 10)
    index = HeaviestFirst(scanned=1).build(known.items, known.rows)
    found, _ = Efforts(index, known, target=0.99).least()
    assert [own.effort for own in found] == [Effort(scanned=19)]
    assert [own.scanned for own in around(Effort(scanned=40), num_lists=0)] == [10, 20, 28, 40, 56, 80]


def test_every_recipe_builds_what_its_config_says() -> None:
    known = some(500)
    for recipe in recipes(500):
        index = recipe.builder(500).build(known.items, known.rows)
        config = recipe.config(500, index.effort)
        own = config["builder"] if recipe.apart else config
        assert len(index) == 500
        assert own["_target_"].endswith(TYPES[recipe.type].make.__name__)
        assert {"lists": own.get("probes"), "beam": own.get("search_beam")} == {
            "lists": index.effort.lists,
            "beam": index.effort.beam,
        }


def test_a_small_catalogue_has_no_two_recipes_of_one_index() -> None:
    # Of 300 items there are 7 lists at most, and so one size of lists rather than four.
    assert [own.size for own in recipes(300) if own.type == "ivf_flat"] == [1, 1]
    assert len(recipes(100_000)) > len(recipes(300))


def test_of_recall_1_nothing_but_exact_search_is_sure() -> None:
    tuning = tuned(some(1500), replace(NO_LIMIT, recall=1.0), seed=1)
    assert tuning.chosen.recipe.type == "flat"
    assert tuning.index.is_exact


def test_among_few_items_exact_search_is_chosen() -> None:
    chosen = tuned(some(300), NO_LIMIT, seed=0).chosen
    assert not TYPES[chosen.recipe.type].is_approximate


def test_the_choice_holds_its_recall_on_unseen_queries_and_what_was_chosen_is_what_its_config_builds() -> None:
    known = replace(some(12_000), queries=drawn(150, seed=2))
    # Memory for a byte a coordinate alone: 12,000 * (17 + 20) bytes and centroids.
    goals = replace(NO_LIMIT, memory_gb=0.0007)
    tuning = tuned(known, goals, seed=1)
    assert tuning.chosen.recipe.type in ("ivf_sq8", "flat_half")
    assert tuning.chosen.num_bytes <= 0.7e6
    unseen = replace(known, queries=drawn(300, seed=3))
    assert unseen.recalls(tuning.index).mean() >= 0.9
    again = tuning.chosen.recipe.builder(12_000).build(known.items, known.rows).with_effort(tuning.chosen.effort)
    np.testing.assert_array_equal(
        again.search(unseen.queries, k=10).rows, tuning.index.search(unseen.queries, k=10).rows
    )


@pytest.mark.parametrize("limit", [{"latency_ms": 1e-6}, {"memory_gb": 1e-6}], ids=["latency", "memory"])
def test_a_goal_that_cannot_be_met_is_an_error_that_says_the_nearest_misses(limit: dict[str, float]) -> None:
    with pytest.raises(GoalsNotMet, match=r"no index of 800 items is within .* of this recall the smallest is .* GB"):
        tuned(some(800), replace(NO_LIMIT, **limit), seed=1)


@pytest.mark.parametrize(
    "wrong", [{"recall": 0.0}, {"recall": 1.1}, {"k": 0}, {"latency_ms": 0.0}, {"memory_gb": -1.0}]
)
def test_goals_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UnfitPieces, match="expected a recall in"):
        replace(NO_LIMIT, **wrong)


def test_a_sweep_measures_every_recipe_and_every_effort_of_its_grid() -> None:
    known = some(300)
    tuning = swept(known, NO_LIMIT)
    assert {own.recipe for own in tuning.points} == set(recipes(300))
    # 1 to 7 lists, by steps of the square root of 2.
    assert [own.effort.lists for own in tuning.points if own.recipe == Recipe("ivf_flat", 0.0, 1)] == [1, 2, 3, 4, 6, 7]


def test_the_curve_rises_and_holds_the_chosen_point() -> None:
    known = some(12_000, 40)
    tuning = tuned(known, replace(NO_LIMIT, memory_gb=0.0007), seed=1)
    points = curve(tuning, known)
    assert tuning.chosen in points
    recalls = [own.recall for own in points]
    assert recalls == sorted(recalls)


def test_memory_grows_with_the_items_as_forecast() -> None:
    known = some(4000)
    tuning = tuned(known, NO_LIMIT, seed=1)
    foreseen = forecast(tuning.chosen, known, factor=3, seed=1)
    more = drawn(12_000, seed=5)
    measured = tuning.chosen.recipe.builder(4000).build(more, np.arange(12_000)).num_bytes
    assert foreseen.num_items == 12_000
    assert foreseen.num_bytes == pytest.approx(measured, rel=0.05)
    assert foreseen.build_s >= 0
