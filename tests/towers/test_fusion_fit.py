from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towers.retrievers.fusion_fit import _Lists, ascend, fit_weights


def lists(*, num: int, size: int, weights: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Requests that choose one of their candidates with a probability of the softmax of a weighted sum."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(num, size, len(weights)))
    fused = scores @ np.array(weights) + draw.gumbel(size=(num, size))
    relevant = fused == fused.max(axis=1, keepdims=True)
    return scores.reshape(num * size, -1), relevant.reshape(-1), np.repeat(np.arange(num), size)


def test_the_weights_by_which_items_were_chosen_are_found() -> None:
    scores, relevant, owners = lists(num=3000, size=20, weights=[2.0, 0.5, 0.0])
    # the standard error of a weight is about 1 / sqrt(3000) = .02
    np.testing.assert_allclose(fit_weights(scores, relevant=relevant, owners=owners), [2.0, 0.5, 0.0], atol=0.1)


def test_a_scale_of_a_retriever_changes_its_weight_by_as_much() -> None:
    scores, relevant, owners = lists(num=300, size=10, weights=[1.0, 1.0])
    weights = fit_weights(scores, relevant=relevant, owners=owners)
    scaled = fit_weights(scores * np.array([1000.0, 0.01]), relevant=relevant, owners=owners)
    np.testing.assert_allclose(scaled, weights / np.array([1000.0, 0.01]), rtol=1e-2)


def test_a_retriever_that_misleads_or_says_nothing_weighs_nothing() -> None:
    scores, relevant, owners = lists(num=300, size=10, weights=[1.0, -1.0])
    scores = np.column_stack([scores, np.full(len(scores), 0.3)])
    weights = fit_weights(scores, relevant=relevant, owners=owners)
    assert weights[0] > 0.5
    assert weights[1:].tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 999))
def test_the_gradient_is_that_of_the_loss(seed: int) -> None:
    draw = np.random.default_rng(seed)
    owners = np.repeat([0, 1, 2], [4, 5, 3])
    relevant = np.zeros(12, dtype=np.bool_)
    relevant[[0, 2, 4, 9]] = True  # two of the first, one of the others
    own = _Lists(scores=draw.normal(size=(12, 3)), relevant=relevant, owners=owners)
    weights, step = draw.normal(size=3), 1e-6
    _, gradient = own.loss(weights)
    for place in range(3):
        moved = [own.loss(weights + sign * step * np.eye(3)[place])[0] for sign in (1, -1)]
        assert gradient[place] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-5)


def test_the_loss_of_one_list_by_hand() -> None:
    # chosen at 1 and 2, the other at 0: mean of ln(1 + exp(0 - 1)) and ln(1 + exp(0 - 2)); they do not compete
    own = _Lists(
        scores=np.array([[1.0], [0.0], [2.0]]), relevant=np.array([True, False, True]), owners=np.zeros(3, dtype=int)
    )
    value, _ = own.loss(np.ones(1))
    shrinkage = 1e-4 / 2
    assert value == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2 + shrinkage)


def test_requests_that_chose_nothing_or_everything_say_nothing() -> None:
    scores, relevant, owners = lists(num=200, size=10, weights=[1.0, 2.0])
    more = np.random.default_rng(1).normal(size=(5, 2))
    silent = fit_weights(
        np.concatenate([scores, more]),
        relevant=np.concatenate([relevant, [False, False, True, True, True]]),
        owners=np.concatenate([owners, [200, 200, 202, 202, 202]]),
    )
    np.testing.assert_allclose(silent, fit_weights(scores, relevant=relevant, owners=owners))
    with pytest.raises(ValueError, match="no request has both a chosen and another candidate"):
        fit_weights(more, relevant=np.ones(5, dtype=np.bool_), owners=np.zeros(5, dtype=np.int64))


def first_is_chosen(relevant: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of each list 1 where a chosen candidate leads it: [N, C] -> [N]."""
    return lambda fused: np.take_along_axis(relevant, fused.argmax(axis=1)[:, None], axis=1)[:, 0].astype(float)


def test_the_ascent_counts_the_top_of_a_list_alone() -> None:
    # The second retriever knows who leads and nothing of the rest, where the first is right more often than not.
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(400, 30, 2))
    relevant = np.zeros((400, 30), dtype=bool)
    relevant[np.arange(400), scores[:, :, 1].argmax(axis=1)] = True
    measure = first_is_chosen(relevant)
    before = np.array([1.0, 1.0])
    after = ascend(before, scores, measure=measure)
    assert measure(scores @ after).mean() > measure(scores @ before).mean() + 0.1
    assert after[1] > after[0]


def test_the_ascent_leaves_weights_where_a_gain_would_be_luck() -> None:
    # The other order gains three lists and loses two of 100: +.01, with a standard error of sqrt(5) / 100.
    scores = np.zeros((100, 2, 2))
    scores[:, 0, 0], scores[:, 1, 1] = 1.0, 0.9
    relevant = np.zeros((100, 2), dtype=bool)
    relevant[:3, 1], relevant[3:5, 0] = True, True
    assert ascend(np.array([1.0, 1.0]), scores, measure=first_is_chosen(relevant)).tolist() == [1.0, 1.0]


def test_the_ascent_keeps_weights_at_or_above_0_and_a_retriever_that_says_nothing_as_it_was() -> None:
    draw = np.random.default_rng(1)
    scores = draw.normal(size=(200, 10, 3))
    scores[:, :, 2] = 0.3
    relevant = scores[:, :, 0] == scores[:, :, 0].max(axis=1, keepdims=True)
    weights = ascend(np.array([1.0, 2.0, 5.0]), scores, measure=first_is_chosen(relevant))
    assert (weights >= 0).all()
    assert weights[2] == 5.0
