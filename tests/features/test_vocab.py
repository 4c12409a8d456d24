import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.vocab import FIRST, PADDING, UNKNOWN, NumberScale, Vocabularies, Vocabulary

values = st.lists(st.sampled_from(["", "a", "b", "c", "d", "ü"]), max_size=30)


def test_values_stand_by_frequency_and_ties_by_name():
    vocabulary = Vocabulary.fit(["b", "c", "a", "c", "b", "d", "c"])
    # c three times, b twice, a and d once
    assert vocabulary.values == ("c", "b", "a", "d")


def test_rare_and_empty_values_are_left_out():
    assert Vocabulary.fit(["a", "b", "a", "", "", ""], min_count=2).values == ("a",)


def test_known_values_begin_after_padding_and_unknown():
    ids = Vocabulary(("x", "y")).encode(["y", "", "never seen", "x"])
    assert ids.tolist() == [FIRST + 1, PADDING, UNKNOWN, FIRST]
    assert ids.dtype == np.int64


def test_nothing_encodes_to_nothing():
    assert Vocabulary(("x",)).encode([]).shape == (0,)


@given(values, st.randoms(use_true_random=False))
def test_a_vocabulary_does_not_depend_on_the_order_of_its_rows(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert Vocabulary.fit(shuffled) == Vocabulary.fit(rows)


@given(values, values)
def test_every_id_is_an_embedding_row_and_leads_back_to_its_value(fitted_on, asked):
    vocabulary = Vocabulary.fit(fitted_on)
    for value, vocab_id in zip(asked, vocabulary.encode(asked).tolist(), strict=True):
        assert 0 <= vocab_id < len(vocabulary)
        if vocab_id >= FIRST:
            assert vocabulary.values[vocab_id - FIRST] == value
        else:
            assert vocab_id == (UNKNOWN if value else PADDING)
            assert value not in vocabulary.values


def test_a_number_is_scaled_by_mean_and_deviation():
    scale = NumberScale.fit(np.array([10.0, 20.0, 30.0, np.nan]))
    # mean 20, deviation sqrt((100 + 0 + 100) / 3) = 8.165; 30 is 10 / 8.165 = 1.2247 deviations away
    assert (scale.mean, scale.deviation) == (20.0, pytest.approx(math.sqrt(200 / 3)))
    np.testing.assert_allclose(scale.scale(np.array([20.0, 30.0])), [0.0, 1.2247449], rtol=1e-6)


def test_one_absurd_number_moves_the_scale_of_the_others_by_little():
    prices = np.arange(1.0, 1001.0)  # mean 500.5, deviation 288.7
    scale = NumberScale.fit(np.append(prices, 8e7))
    assert scale.mean == pytest.approx(500.5, rel=0.01)
    assert scale.deviation == pytest.approx(288.7, rel=0.01)


def test_a_missing_number_becomes_the_mean_and_a_wild_one_stays_within_five_deviations():
    scaled = NumberScale(mean=20.0, deviation=2.0).scale(np.array([np.nan, np.inf, -np.inf, 1e9, -1e9]))
    assert scaled.tolist() == [0.0, 0.0, 0.0, 5.0, -5.0]
    assert scaled.dtype == np.float32


@pytest.mark.parametrize("nothing", [[], [np.nan, np.inf]])
def test_without_a_finite_value_the_scale_is_the_identity(nothing):
    assert NumberScale.fit(np.array(nothing, dtype=np.float64)) == NumberScale(mean=0.0, deviation=1.0)


@given(st.floats(-1e6, 1e6), st.integers(1, 20))
def test_a_number_that_never_varies_scales_to_zero_and_not_to_its_rounding_error(value, count):
    # The mean of three 0.1 is 0.10000000000000002, so their deviation is 1.4e-17 rather than 0.
    column = np.full(count, value)
    np.testing.assert_allclose(NumberScale.fit(column).scale(column), np.zeros(count), atol=1e-6)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True))
def test_scaled_values_have_mean_zero_and_keep_their_order(column):
    raw = np.array(column, dtype=np.float64)
    scale = NumberScale.fit(raw)
    exact = (raw - scale.mean) / scale.deviation
    assert abs(exact.mean()) < 1e-9
    np.testing.assert_allclose(scale.scale(raw), np.clip(exact, -5, 5), atol=1e-5)
    assert (np.diff(scale.scale(np.sort(raw))) >= 0).all()


def test_what_was_fitted_survives_its_json_file():
    fitted = Vocabularies(
        categories={"genres": Vocabulary(("Drama", "Café")), "empty": Vocabulary(())},
        numbers={"year": NumberScale(mean=1980.123456789, deviation=1 / 3)},
    )
    assert Vocabularies.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
