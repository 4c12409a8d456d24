"""Two ranks with half a batch each learn what one rank with all of it learns.

The two are processes of this machine that talk over loopback; every test that starts them ends them.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.testing import assert_close

from tests.towers.tiny import LENGTH, WINDOWS, small_module, windows
from towers.losses.gbce import Gbce
from towers.losses.loss import Loss
from towers.losses.softmax import Softmax
from towers.negatives.frequency import Uniform
from towers.negatives.hard import Hard
from towers.negatives.mixed import Mixed
from towers.negatives.sampler import NegativeSource
from towers.negatives.targets import InBatch, Queue
from towers.ranks import gathered, mean_over_ranks, num_ranks

SAMPLED, EVEN = Softmax(full_up_to=0), Uniform(num_negatives=16)
VARIANTS: dict[str, tuple[Loss, NegativeSource]] = {
    "full": (Softmax(full_up_to=None), EVEN),
    "uniform": (SAMPLED, EVEN),
    "in_batch": (SAMPLED, InBatch()),
    "queue": (SAMPLED, Queue(num_negatives=20)),
    "mixed": (SAMPLED, Mixed([InBatch(), EVEN])),
    "hard": (SAMPLED, Hard(shared=InBatch(), num_hard=2, skipped=1, every_n_steps=1)),
    "gbce": (Gbce(calibration=0.75), InBatch()),
}
Learnt = dict[str, tuple[list[float], dict[str, Tensor]]]


def learnt(*, ranks: int, rank: int) -> Learnt:
    """Of each variant the losses of two steps and the gradients of the second, averaged over ranks as DDP does."""
    half = WINDOWS // ranks
    found: Learnt = {}
    for name, (loss, negatives) in VARIANTS.items():
        module = small_module(loss=loss, negatives=negatives).train()
        batch = module.make_batch([part[rank * half : (rank + 1) * half] for part in windows()])
        losses = []
        for step in range(2):  # a queue is empty in the first
            torch.manual_seed(step)
            module.zero_grad()
            value = module.training_step(batch, step)
            value.backward()  # type: ignore[no-untyped-call]
            losses.append(value.detach())
        gradients = {key: weights.grad for key, weights in module.named_parameters() if weights.grad is not None}
        for tensor in (*losses, *gradients.values()):
            if ranks > 1:
                distributed.all_reduce(tensor)
                tensor /= ranks
        found[name] = ([value.item() for value in losses], gradients)
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        seen = {
            "ranks": num_ranks(),
            "gathered": gathered(torch.tensor([5, 6, 7][: 3 - rank]), capacity=4),
            "mean": mean_over_ranks(torch.tensor([[1.0, 2.0, 3.0], [10.0]][rank])),
            "learnt": learnt(ranks=2, rank=rank),
        }
        torch.save(seen, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[dict[str, object]]:
    """What each of two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GLOO_SOCKET_IFNAME", "lo")
        spawn(work, args=(str(folder),), nprocs=2, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_rows_of_all_ranks_come_in_the_order_of_ranks_and_padded(two_ranks):
    for seen in two_ranks:
        assert seen["ranks"] == 2
        assert seen["gathered"].tolist() == [5, 6, 7, 0, 5, 6, 0, 0]


def test_a_mean_weighs_positions_and_not_ranks(two_ranks):
    # (1 + 2 + 3 + 10) / 4 = 4, where the mean of the ranks' means would be 6
    assert sum(seen["mean"].item() for seen in two_ranks) / 2 == pytest.approx(4.0)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_two_ranks_with_half_a_batch_each_learn_what_one_with_all_of_it_does(two_ranks, one_rank, variant):
    losses, gradients = one_rank[variant]
    for seen in two_ranks:
        assert seen["learnt"][variant][0] == pytest.approx(losses, rel=1e-5)
        assert_close(seen["learnt"][variant][1], gradients, atol=1e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def one_rank() -> Learnt:
    return learnt(ranks=1, rank=0)


def test_the_halves_differ_so_that_neither_alone_would_do(one_rank):
    module = small_module(loss=SAMPLED, negatives=InBatch()).train()
    half = module.make_batch([part[: WINDOWS // 2] for part in windows()])
    assert module.training_step(half, 0).item() != pytest.approx(one_rank["in_batch"][0][0], rel=1e-3)
    assert len(half.positions) == LENGTH * WINDOWS // 2  # the other half has half as many


def test_one_rank_alone_keeps_what_it_has():
    rows = torch.tensor([5, 6])
    assert num_ranks() == 1
    assert gathered(rows, capacity=4).tolist() == [5, 6]
    assert mean_over_ranks(torch.tensor([1.0, 2.0])).item() == 1.5
