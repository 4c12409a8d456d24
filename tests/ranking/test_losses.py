import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ranking.losses import centred_mse, info_nce, listwise_kl, listwise_softmax, margin_mse

SCORES = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=8)


def test_listwise_softmax_matches_hand_computation() -> None:
    # scores ln 1, ln 2, ln 5 have the softmax 1/8, 2/8, 5/8; the relevant is the second: -ln(2/8) = ln 4
    scores = torch.tensor([[1.0, 2.0, 5.0]]).log()
    assert_close(listwise_softmax(scores, torch.tensor([[0.0, 1.0, 0.0]])), torch.tensor([math.log(4)]))


def test_graded_relevance_shares_the_target() -> None:
    # relevance 3 and 1 make the target 3/4 and 1/4: -(3/4 ln(1/8) + 1/4 ln(2/8)) = (9 + 2) / 4 * ln 2
    scores = torch.tensor([[1.0, 2.0, 5.0]]).log()
    assert_close(listwise_softmax(scores, torch.tensor([[3.0, 1.0, 0.0]])), torch.tensor([11 / 4 * math.log(2)]))


def test_the_loss_has_one_value_a_list() -> None:
    losses = listwise_softmax(torch.zeros(3, 4), torch.eye(4)[:3])
    assert_close(losses, torch.full((3,), math.log(4)))


def test_the_gradient_is_the_softmax_less_the_target() -> None:
    # d loss / d score = softmax - target: 1/8, 2/8 - 1, 5/8: only the relevant score is pushed up
    scores = torch.tensor([[1.0, 2.0, 5.0]]).log().requires_grad_()
    listwise_softmax(scores, torch.tensor([[0.0, 1.0, 0.0]])).sum().backward()
    assert_close(scores.grad, torch.tensor([[1 / 8, -6 / 8, 5 / 8]]))


def test_scores_in_half_precision_give_losses_in_single_precision() -> None:
    # the softmax of equal scores over 3 candidates: ln 3 = 1.0986123, of which fp16 would keep 1.0986328
    scores = torch.full((1, 3), 5.0, dtype=torch.float16)
    expected = torch.tensor([math.log(3)])
    assert_close(listwise_softmax(scores, torch.tensor([[1.0, 0.0, 0.0]])), expected, rtol=1e-6, atol=0.0)
    assert listwise_kl(scores, scores, temperature=1.0).dtype == torch.float32


def test_distillation_matches_hand_computation() -> None:
    # teacher 3/4, 1/4, student 1/2, 1/2: 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher, student = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    expected = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert_close(listwise_kl(student, teacher, temperature=1.0), torch.tensor([expected]))


def test_temperature_softens_and_its_square_scales_back() -> None:
    # teacher ln 9, 0 at temperature 2 is ln 3, 0, hence 3/4 and 1/4 again; the loss is 2**2 times the one above
    teacher, student = torch.tensor([[9.0, 1.0]]).log(), torch.zeros(1, 2)
    expected = 4 * (3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2))
    assert_close(listwise_kl(student, teacher, temperature=2.0), torch.tensor([expected]))


def test_a_high_temperature_compares_scores_by_their_squares() -> None:
    # Hinton et al., section 2.1: the limit is half the mean square of the centred differences.
    # Differences 2, 0, 1 have the mean 1, so 1, -1, 0: (1 + 1 + 0) / 3 / 2 = 1/3
    student, teacher = torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert_close(listwise_kl(student, teacher, temperature=300.0), torch.tensor([1 / 3]), rtol=0.03, atol=0.0)


def test_the_gradient_pulls_the_student_to_the_teacher() -> None:
    # d loss / d score = temperature * (student's softmax - teacher's): 2 * (1/2 - 3/4), 2 * (1/2 - 1/4)
    student = torch.zeros(1, 2, requires_grad=True)
    listwise_kl(student, torch.tensor([[9.0, 1.0]]).log(), temperature=2.0).sum().backward()
    assert_close(student.grad, torch.tensor([[-0.5, 0.5]]))


@given(SCORES, st.floats(-5, 5), st.sampled_from([0.5, 1.0, 4.0]))
def test_a_student_that_differs_by_a_constant_has_nothing_to_learn(
    scores: list[float], shift: float, temperature: float
) -> None:
    teacher = torch.tensor([scores])
    assert_close(listwise_kl(teacher + shift, teacher, temperature=temperature), torch.zeros(1), rtol=0.0, atol=1e-3)
    assert listwise_kl(teacher, teacher, temperature=temperature).item() == 0.0


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 4.0]))
def test_both_losses_are_never_negative_and_ignore_the_order_of_candidates(seed: int, temperature: float) -> None:
    generator = np.random.default_rng(seed)
    scores, teacher = (torch.tensor(generator.normal(0, 3, size=(2, 6)), dtype=torch.float32) for _ in range(2))
    relevance = torch.tensor(generator.random((2, 6)), dtype=torch.float32)
    order = torch.from_numpy(generator.permutation(6))
    label_loss, taught = listwise_softmax(scores, relevance), listwise_kl(scores, teacher, temperature=temperature)
    assert (label_loss >= 0).all()
    assert (taught >= -1e-5).all()
    assert_close(listwise_softmax(scores[:, order], relevance[:, order]), label_loss)
    assert_close(listwise_kl(scores[:, order], teacher[:, order], temperature=temperature), taught)


def test_centred_mse_matches_hand_computation() -> None:
    # differences 1, 3, 2 less their mean 2: -1, 1, 0; squares 1, 1, 0
    scores, teacher = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert_close(centred_mse(scores, teacher), torch.tensor([2 / 3]))


def test_margin_mse_matches_hand_computation() -> None:
    # margins 1 - 5 = -4 and 1 - 2 = -1; the teacher's 0 - 2 = -2 and 0 - 0 = 0; squares of -2 and -1
    scores, teacher = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert_close(margin_mse(scores, teacher), torch.tensor([2.5]))


def test_info_nce_is_the_cross_entropy_of_the_teachers_best() -> None:
    # the teacher likes the second best, which the student gives 1/4
    scores = torch.tensor([[9.0, 3.0]]).log()
    assert_close(info_nce(scores, torch.tensor([[0.0, 2.0]]), temperature=1.0), torch.tensor([4.0]).log())
    # at temperature 1/2 odds are squared: 1/10
    assert_close(info_nce(scores, torch.tensor([[0.0, 2.0]]), temperature=0.5), torch.tensor([10.0]).log())


@pytest.mark.parametrize("loss", [centred_mse, margin_mse], ids=lambda loss: loss.__name__)
def test_a_constant_more_is_nothing_to_learn(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    teacher = torch.tensor([[1.0, -2.0, 0.5]])
    assert_close(loss(teacher + 7.0, teacher), torch.zeros(1), rtol=0.0, atol=1e-6)
    assert loss(teacher * 2.0, teacher).item() > 0.0
