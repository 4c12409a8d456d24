"""What a GPU must get right: a training step runs there without waiting, and gives what the CPU gives.

Most of it is proven on the meta device, which has shapes and devices but no data: a tensor that stays on the CPU meets
one that does not, and whatever must know a value fails.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from features.tower_inputs import QueryTowerInputs
from tests.towers.tiny import small_module, windows
from towers.losses.bpr import Bpr
from towers.losses.gbce import Gbce
from towers.losses.loss import Loss
from towers.losses.softmax import Softmax
from towers.module import TowersModule
from towers.negatives.frequency import Frequency, Uniform
from towers.negatives.hard import Hard
from towers.negatives.mixed import Mixed
from towers.negatives.sampler import NegativeSource
from towers.negatives.targets import InBatch, Queue
from towers.training_batch import TrainingBatch

SAMPLED, EVEN = Softmax(full_up_to=0), Uniform(num_negatives=16)
VARIANTS: dict[str, tuple[Loss, NegativeSource]] = {
    "full softmax": (Softmax(full_up_to=None), EVEN),
    "uniform": (SAMPLED, EVEN),
    "without replacement": (SAMPLED, Uniform(num_negatives=16, replacement=False)),
    "frequency": (SAMPLED, Frequency(num_negatives=16, exponent=0.5)),
    "mixed": (SAMPLED, Mixed([InBatch(), Queue(num_negatives=20), EVEN])),
    "hard": (SAMPLED, Hard(shared=EVEN, num_hard=2, skipped=1, every_n_steps=2)),
    "gbce": (Gbce(calibration=0.75), EVEN),
    "bpr": (Bpr(), EVEN),
}


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, and counts those that make the host wait for a value."""

    MAY_MIX = ("_to_copy", "copy_", "index", "index_put_", "_index_put_impl_")

    def __init__(self) -> None:
        super().__init__()
        self.num_waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim() > 0]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1 and name not in self.MAY_MIX:
            raise RuntimeError(f"{name} got tensors on {' and '.join(sorted(devices))}")
        # The optimizer counts its steps in a tensor of the host, for which nothing has to be waited.
        self.num_waits += name == "_local_scalar_dense" and args[0].device.type != "cpu"
        return func(*args, **(kwargs or {}))


def batch(module: TowersModule, device: str) -> TrainingBatch:
    made: TrainingBatch = tree_map_only(Tensor, lambda part: part.to(device), module.make_batch(windows()))
    return made


def step_on_meta(module: TowersModule) -> int:
    """A whole training step on the meta device; returns how often the host had to wait."""
    module = module.to("meta").train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
    inputs = batch(module, "meta")
    with OneDevice() as mode:
        for step in range(2):
            optimiser.zero_grad()
            module.training_step(inputs, step).backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
    assert all(parameter.grad is not None for parameter in module.parameters())
    return mode.num_waits


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_training_step_keeps_to_one_device_and_never_waits_for_it(variant: str) -> None:
    loss, negatives = VARIANTS[variant]
    assert step_on_meta(small_module(loss=loss, negatives=negatives)) == 0


def test_so_does_a_step_whose_logits_are_made_in_chunks() -> None:
    module = small_module()
    module.objective.max_logits = 100
    assert step_on_meta(module) == 0


def left_behind(module: TowersModule) -> None:
    """A table that does not move with the module."""
    sampler = module.objective.shared.samplers[0]  # type: ignore[union-attr]
    table = sampler.probabilities
    del sampler.probabilities
    sampler.__dict__["probabilities"] = table


def waits(module: TowersModule) -> None:
    """A loss that looks at a value."""
    loss: Callable[..., Tensor] = module.objective.loss
    module.objective.loss = lambda *args, **kwargs: loss(*args, **kwargs) * float(args[0].sum())


def counts(module: TowersModule) -> None:
    """A loss whose shape depends on values."""
    loss: Callable[..., Tensor] = module.objective.loss
    module.objective.loss = lambda *args, **kwargs: loss(*args, **kwargs)[args[0] > 0]


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (left_behind, "index_select got tensors|cpu is not on the expected device meta"),
        (waits, "item"),
        (counts, "nonzero"),
    ],
)
def test_what_a_gpu_would_refuse_or_wait_for_is_noticed(plant: Callable[[TowersModule], None], message: str) -> None:
    module = small_module()
    plant(module)
    with pytest.raises((RuntimeError, NotImplementedError), match=message):
        step_on_meta(module)


def test_the_mode_refuses_two_devices_and_counts_waits() -> None:
    with OneDevice() as mode:
        with pytest.raises(RuntimeError, match="add got tensors on cpu and meta"):
            torch.ones(2) + torch.ones(2, device="meta")
        assert torch.ones(2).sum().item() == 2.0
        assert mode.num_waits == 0
        with pytest.raises(RuntimeError, match="meta"):
            torch.ones(2, device="meta").sum().item()
    assert mode.num_waits == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
def test_the_query_embedding_on_a_gpu_equals_the_cpu() -> None:
    module = small_module().eval()
    on_cpu, on_gpu = [], []
    for device, kept in (("cpu", on_cpu), ("cuda", on_gpu)):
        model = module.model.to(device)
        inputs = batch(module, device)
        embeddings = model.embed_catalogue()[inputs.history_rows]
        kept.append(model.query_tower(QueryTowerInputs(embeddings, *inputs.query)).detach().cpu())
    torch.testing.assert_close(on_gpu[0], on_cpu[0], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_training_on_a_gpu_lowers_the_loss(variant: str) -> None:
    loss, negatives = VARIANTS[variant]
    module = small_module(loss=loss, negatives=negatives).to("cuda").train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
    inputs, losses = batch(module, "cuda"), []
    for step in range(30):
        optimiser.zero_grad()
        value = module.training_step(inputs, step)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(value))
    assert losses[-1] < losses[1]  # a queue is empty in the first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_training_step_on_a_gpu_waits_for_nothing(variant: str) -> None:
    loss, negatives = VARIANTS[variant]
    module = small_module(loss=loss, negatives=negatives).to("cuda").train()
    inputs = batch(module, "cuda")
    module.training_step(inputs, 0).backward()  # type: ignore[no-untyped-call]
    torch.cuda.set_sync_debug_mode("error")
    try:
        module.training_step(inputs, 1).backward()  # type: ignore[no-untyped-call]
    finally:
        torch.cuda.set_sync_debug_mode("default")
