import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from towers.errors import UnfitPieces
from towers.negatives.frequency import Frequency, Uniform
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import Negatives, Sampler, SharedNegatives

# padding, unknown, an item never chosen, then items of 16, 4 and 1 events
COUNTS = np.array([0, 0, 0, 16, 4, 1])
ITEMS = TrainingItems(counts=COUNTS, recommendable=COUNTS > 0)
NO_TARGETS = torch.empty(0, dtype=torch.long)


def sampler_of(source: Frequency | Uniform, items: TrainingItems = ITEMS) -> Sampler:
    (sampler,) = source.samplers(items)
    return sampler


def drawn(source: Frequency | Uniform, *, seed: int = 0) -> Negatives:
    shared = SharedNegatives(source.samplers(ITEMS))
    return shared(NO_TARGETS, capacity=0, generator=torch.Generator().manual_seed(seed))


def by_root(num_negatives: int) -> Frequency:
    """By square roots: items 3, 4 and 5 have probabilities 4/7, 2/7 and 1/7."""
    return Frequency(num_negatives=num_negatives, exponent=0.5)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (0.0, [1 / 3, 1 / 3, 1 / 3]),
        (0.5, [4 / 7, 2 / 7, 1 / 7]),  # square roots 4, 2, 1
        (1.0, [16 / 21, 4 / 21, 1 / 21]),
    ],
)
def test_the_exponent_leads_from_uniform_to_frequency(exponent, expected):
    probabilities = sampler_of(Frequency(num_negatives=1, exponent=exponent)).probabilities
    np.testing.assert_allclose(probabilities, [0, 0, 0, *expected], rtol=1e-6)


def test_what_may_be_recommended_without_an_event_counts_as_if_it_had_one():
    items = TrainingItems(counts=COUNTS, recommendable=np.arange(6) >= 2)
    probabilities = sampler_of(Frequency(num_negatives=1, exponent=1.0), items).probabilities
    np.testing.assert_allclose(probabilities, [0, 0, 1 / 22, 16 / 22, 4 / 22, 1 / 22], rtol=1e-6)
    np.testing.assert_allclose(sampler_of(Uniform(num_negatives=1), items).probabilities, [0, 0, *[1 / 4] * 4])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any), st.floats(0, 1))
def test_probabilities_add_up_and_only_items_seen_in_training_have_one(counts, exponent):
    items = TrainingItems(counts=np.array([0, 0, *counts]), recommendable=np.zeros(2 + len(counts), dtype=bool))
    probabilities = sampler_of(Frequency(num_negatives=1, exponent=exponent), items).probabilities
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(probabilities > 0, items.counts > 0)


def test_rows_are_drawn_as_often_as_their_probability_says_and_unseen_ones_never():
    counts = torch.bincount(drawn(by_root(70_000)).rows, minlength=6)
    assert counts[:3].tolist() == [0, 0, 0]
    # 40,000, 20,000 and 10,000 expected; deviation sqrt(n p (1 - p)) is at most 132
    np.testing.assert_allclose(counts[3:], [40_000, 20_000, 10_000], atol=4 * 132)


@pytest.mark.parametrize(("place", "row"), [(0.0, 3), (4 / 7 - 1e-9, 3), (4 / 7 + 1e-9, 4), (1 - 1e-16, 5)])
def test_a_draw_falls_on_the_row_whose_share_of_the_unit_interval_it_hits(place, row):
    sampler = sampler_of(by_root(1))
    found = torch.searchsorted(sampler.cumulated, torch.tensor([place], dtype=torch.float64), right=True)
    assert found.tolist() == [row]


def test_a_rare_item_of_a_large_catalogue_is_drawn():
    # One item has a hundred millionth of the events: in fp32 its share of the sum would round away.
    counts = np.array([0, 0, 10**8, 1])
    sampler = sampler_of(
        Frequency(num_negatives=1, exponent=1.0), TrainingItems(counts=counts, recommendable=counts > 0)
    )
    assert sampler.cumulated[2] < 1.0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (by_root(7), {3: 4.0, 4: 2.0, 5: 1.0}),  # 7 draws of probabilities 4/7, 2/7, 1/7
        (Uniform(num_negatives=6), {3: 2.0, 4: 2.0, 5: 2.0}),
        (Uniform(num_negatives=2, replacement=False), {3: 2 / 3, 4: 2 / 3, 5: 2 / 3}),
    ],
)
def test_over_many_samples_an_item_comes_as_often_as_the_sample_says(source, expected):
    samples = [drawn(source, seed=seed) for seed in range(2000)]
    for sample in samples[:50]:
        logs = [expected[row] for row in sample.rows.tolist()]
        np.testing.assert_allclose(sample.log_expected_count.exp(), logs, rtol=1e-5)
    counts = torch.stack([torch.bincount(sample.rows, minlength=6) for sample in samples]).float().mean(dim=0)
    # deviation of a mean count: sqrt(7 p (1 - p) / 2000) is at most 0.03
    np.testing.assert_allclose(counts, [0, 0, 0, *expected.values()], atol=0.12)


def test_without_replacement_no_item_comes_twice():
    for seed in range(50):
        assert len(set(drawn(Uniform(num_negatives=3, replacement=False), seed=seed).rows.tolist())) == 3


def test_the_same_generator_draws_the_same_sample():
    first, again, other = (drawn(by_root(50), seed=seed).rows.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_than_there_are_cannot_be_drawn_without_replacement():
    with pytest.raises(UnfitPieces, match=r"num_negatives=4 cannot be drawn without replacement from 3 items: draw"):
        Uniform(num_negatives=4, replacement=False).samplers(ITEMS)
    assert Uniform(num_negatives=4).samplers(ITEMS)


@pytest.mark.parametrize(("num_negatives", "exponent"), [(0, 0.5), (1, -0.1), (1, 1.1)])
def test_settings_outside_their_range_are_refused_with_their_values(num_negatives, exponent):
    with pytest.raises(
        ValueError, match=rf"num_negatives >= 1 and 0 <= exponent <= 1; got {num_negatives} and {exponent}"
    ):
        Frequency(num_negatives=num_negatives, exponent=exponent)


def test_no_negatives_at_all_are_refused():
    with pytest.raises(ValueError, match="num_negatives must be at least 1; got 0"):
        Uniform(num_negatives=0)


def test_a_catalogue_without_a_training_event_is_refused():
    with pytest.raises(UnfitPieces, match="no item has a training event, so there is nothing to learn: check the"):
        TrainingItems(counts=np.zeros(5, dtype=np.int64), recommendable=np.ones(5, dtype=bool))
