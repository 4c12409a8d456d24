import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from towers.losses.bpr import Bpr, bpr

ONCE = torch.zeros(2)


def test_it_is_the_mean_over_pairs():
    # sigmoid(log 3) = 3/4 and sigmoid(-log 3) = 1/4
    loss = bpr(
        torch.tensor([math.log(3)]),
        torch.tensor([[0.0, 2 * math.log(3)]]),
        log_expected_count=ONCE,
        left_out=torch.zeros(1, 2, dtype=torch.bool),
    )
    assert loss.tolist() == pytest.approx([-(math.log(0.75) + math.log(0.25)) / 2])


def test_it_equals_torchs_logsigmoid_and_so_do_its_gradients():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = bpr(
        logits[:, 0], logits[:, 1:], log_expected_count=torch.zeros(3), left_out=torch.zeros(5, 3, dtype=torch.bool)
    )
    expected = -functional.logsigmoid(logits[:, :1] - logits[:, 1:]).mean(dim=1)
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found.sum(), logits), torch.autograd.grad(expected.sum(), logits))


def test_what_is_left_out_is_in_no_pair():
    loss = bpr(
        torch.tensor([0.0, 0.0]),
        torch.tensor([[0.0, 50.0], [50.0, 50.0]]),
        log_expected_count=ONCE,
        left_out=torch.tensor([[False, True], [True, True]]),
    )
    assert loss.tolist() == pytest.approx([math.log(2), 0.0])


def test_how_often_an_item_is_expected_changes_nothing():
    first, second = (
        bpr(
            torch.tensor([1.0]),
            torch.tensor([[0.0, 2.0]]),
            log_expected_count=counts,
            left_out=torch.zeros(1, 2, dtype=torch.bool),
        )
        for counts in (ONCE, torch.tensor([3.0, -7.0]))
    )
    assert_close(first, second)


def test_it_never_reads_all_items():
    assert Bpr().over_all(2) is None
    assert Bpr().over_sample(2) is bpr
