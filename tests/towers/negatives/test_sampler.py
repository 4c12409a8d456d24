"""Samples of one source and of several, by hand and against the full softmax that they estimate."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from towers.losses.softmax import sampled_softmax
from towers.negatives.frequency import Frequency, Uniform
from towers.negatives.hard import Hard
from towers.negatives.items import TrainingItems
from towers.negatives.mixed import Mixed
from towers.negatives.sampler import NegativeSource, SharedNegatives
from towers.negatives.targets import InBatch, Queue

# Rows 2 to 7; all were chosen, so that targets alone reach every item.
COUNTS = np.array([0, 0, 20, 10, 2, 6, 2, 1])
FREQUENCIES = torch.from_numpy(COUNTS / COUNTS.sum())
ITEMS = TrainingItems(counts=COUNTS, recommendable=COUNTS > 0)
LOGITS = torch.tensor([0.0, 0.0, 1.0, -0.5, 2.0, 0.3, -2.0, 0.0])
TARGET = 5
FULL = functional.cross_entropy(LOGITS[2:].unsqueeze(0), torch.tensor([TARGET - 2]))


def test_a_mixture_expects_of_an_item_what_all_its_sources_do():
    # in-batch: 3 positions times 20/41, 10/41, 2/41 ...; uniform: 6 draws of 6 items, once each
    shared = SharedNegatives(Mixed([InBatch(), Uniform(num_negatives=6)]).samplers(ITEMS))
    negatives = shared(torch.tensor([2, 3, 2]), capacity=3, generator=torch.Generator().manual_seed(0))
    assert negatives.rows[:3].tolist() == [2, 3, 2]
    assert len(negatives.rows) == 9
    expected = {row: 3 * COUNTS[row] / 41 + 1 for row in range(2, 8)}
    assert_close(
        negatives.log_expected_count.exp(), torch.tensor([expected[row] for row in negatives.rows.tolist()]).float()
    )


def test_an_item_that_one_source_never_draws_is_corrected_by_the_other_alone():
    counts = np.array([0, 0, 4, 0])  # row 3 may be recommended and is no target
    items = TrainingItems(counts=counts, recommendable=np.arange(4) >= 2)
    shared = SharedNegatives(Mixed([InBatch(), Uniform(num_negatives=20)]).samplers(items))
    negatives = shared(torch.tensor([2, 2]), capacity=2, generator=torch.Generator().manual_seed(0))
    expected = torch.where(negatives.rows == 3, 20 / 2, 2 + 20 / 2)
    assert_close(negatives.log_expected_count.exp(), expected)


def estimate(source: NegativeSource, *, num_targets: int, seed: int, sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """The sampled loss of one position and its gradient by the logits of rows 2 to 7, in the second step."""
    generator = torch.Generator().manual_seed(seed)
    shared = SharedNegatives(source.samplers(ITEMS))
    for _ in range(2):  # a queue is full in its second step
        targets = torch.multinomial(FREQUENCIES, num_targets, replacement=True, generator=generator)
        negatives = shared(targets, capacity=num_targets, generator=generator)
    logits = LOGITS.clone().requires_grad_()
    loss = sampled_softmax(
        logits[TARGET].unsqueeze(0),
        logits[negatives.rows].unsqueeze(0),
        log_expected_count=sign * negatives.log_expected_count,
        left_out=(negatives.rows == TARGET).unsqueeze(0),
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient[2:]


def sources(size: int) -> dict[str, NegativeSource]:
    """Each source, or mixture of sources, with `size` negatives of one kind at most."""
    return {
        "uniform": Uniform(num_negatives=size),
        "frequency": Frequency(num_negatives=size, exponent=0.5),
        "in_batch": InBatch(),
        "queue": Queue(num_negatives=size),
        "in_batch + uniform": Mixed([InBatch(), Uniform(num_negatives=size // 4)]),
        "queue + frequency": Mixed([Queue(num_negatives=size), Frequency(num_negatives=size // 2, exponent=1.0)]),
    }


def errors(name: str, *, size: int, seeds: Sequence[int]) -> Tensor:
    found = [estimate(sources(size)[name], num_targets=size, seed=seed)[0] for seed in seeds]
    return (torch.cat(found) - FULL).abs()


@pytest.mark.parametrize("name", list(sources(4)))
def test_the_estimate_of_every_source_converges_to_the_full_softmax(name):
    few, many = (errors(name, size=size, seeds=range(8)) for size in (400, 40_000))
    # exp(loss) is a mean of terms exp(logit) / probability. The worst is row 7 in a batch: exp(0) * 41 with probability
    # 1/41, and row 4: exp(2) * 41 / 2; deviation about 30 where the truth is 9.5, so over 40,000 draws the loss errs by
    # 30 / 9.5 / 200 = 0.016. A hundred times fewer draws err ten times more.
    assert many.max() < 0.06
    assert many.mean() < few.mean() / 3


@pytest.mark.parametrize("name", list(sources(4)))
def test_so_does_its_gradient(name):
    _, gradient = estimate(sources(40_000)[name], num_targets=40_000, seed=1)
    full = torch.softmax(LOGITS[2:], dim=0) - functional.one_hot(torch.tensor(TARGET - 2), 6)
    assert_close(gradient, full.float(), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", list(sources(4)))
def test_with_the_wrong_sign_or_none_no_sample_is_large_enough(name):
    for sign in (-1.0, 0.0):
        few, many = (
            estimate(sources(size)[name], num_targets=size, seed=0, sign=sign)[0].item() for size in (400, 40_000)
        )
        # Every draw counts more the more are drawn: a hundred times as many add log(100) at least.
        assert many - FULL.item() > many - few > 4.0


def test_in_a_mixture_it_is_wrong_to_correct_each_draw_by_its_own_source_alone():
    # Each of two even sources estimates the whole sum by itself: together they count it twice.
    (first, second) = (Uniform(num_negatives=20_000).samplers(ITEMS)[0] for _ in range(2))
    shared = SharedNegatives([first, second])
    negatives = shared(torch.tensor([TARGET]), capacity=1, generator=torch.Generator().manual_seed(0))
    others = LOGITS[2:].exp().sum() - LOGITS[TARGET].exp()
    weights = LOGITS[negatives.rows].exp() * (negatives.rows != TARGET)
    assert (weights / negatives.log_expected_count.exp()).sum().item() == pytest.approx(others.item(), rel=0.03)
    alone = 20_000 * first.probabilities[negatives.rows]
    assert (weights / alone).sum().item() == pytest.approx(2 * others.item(), rel=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixed([]), "negatives.sources is empty: name one source at least"),
        (
            lambda: Mixed([Hard(shared=InBatch(), num_hard=1, skipped=0, every_n_steps=1)]),
            "put Hard around the mixture, not into it",
        ),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
