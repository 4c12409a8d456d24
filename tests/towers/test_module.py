import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from evaluation.metrics import count_relevant, gains, ndcg, recall
from features.tower_inputs import QueryTowerInputs
from features.vocab import FIRST, PADDING
from lifecycle.train_towers import EpochSeed
from towers.losses.bpr import Bpr
from towers.losses.gbce import Gbce
from towers.losses.softmax import Softmax
from towers.module import TowersModule
from towers.negatives.frequency import Frequency, Uniform
from towers.negatives.hard import Hard
from towers.negatives.mixed import Mixed
from towers.negatives.targets import InBatch, Queue
from towers.training_batch import TrainingBatch

pytestmark = [
    # Lightning 2.6.6 with torch 2.13: its pytree copy builds a LeafSpec.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # nothing to validate on
]


class Recorder(Callback):
    """Keeps each step's loss and learning rate."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def trainer_of(*callbacks: Callback, epochs: int, seed: int = 1, directory: Path | None = None) -> pl.Trainer:
    """As conf/trainer makes it, but silent; it writes checkpoints only if there is a directory for them."""
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=directory is not None,
        default_root_dir=None if directory is None else str(directory),
        callbacks=[EpochSeed(seed), *callbacks],
    )


def first_batch(ring: Any, module: TowersModule) -> TrainingBatch:
    batch: TrainingBatch = next(iter(ring.data(module=module).train_dataloader()))
    return batch


def fitted(ring: Any, *, epochs: int, seed: int = 1, learning_rate: float = 0.02) -> tuple[TowersModule, Recorder]:
    recorder = Recorder()
    module = ring.module(ring.model(seed=seed, dropout=0.1, id_dropout=0.1), learning_rate=learning_rate)
    trainer_of(recorder, epochs=epochs, seed=seed).fit(
        module, datamodule=ring.data(seed=seed, validation=None, module=module)
    )
    return module, recorder


@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but the `self.trainer` reference")
def test_a_step_lowers_the_loss_of_its_own_batch(ring):
    module = ring.module(ring.model(seed=1)).train()
    batch = first_batch(ring, module)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # the same negatives
        loss = module.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


SAMPLED, EVEN = Softmax(full_up_to=0), Uniform(num_negatives=16)
VARIANTS = {
    "full softmax": (Softmax(full_up_to=None, label_smoothing=0.1), EVEN),
    "uniform": (SAMPLED, EVEN),
    "without replacement": (SAMPLED, Uniform(num_negatives=16, replacement=False)),
    "frequency": (SAMPLED, Frequency(num_negatives=16, exponent=0.5)),
    "in_batch": (SAMPLED, InBatch()),
    "queue": (SAMPLED, Queue(num_negatives=200)),
    "mixed": (SAMPLED, Mixed([InBatch(), EVEN])),
    "hard": (SAMPLED, Hard(shared=EVEN, num_hard=2, skipped=3, every_n_steps=2)),
    "gbce": (Gbce(calibration=0.75), EVEN),
    "gbce by batch": (Gbce(calibration=0.75), InBatch()),
    "bpr": (Bpr(), EVEN),
    "bpr, hard": (Bpr(), Hard(shared=EVEN, num_hard=2, skipped=3, every_n_steps=2)),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but the `self.trainer` reference")
def test_every_parameter_of_both_towers_learns(ring, variant):
    loss, negatives = VARIANTS[variant]
    module = ring.module(ring.model(seed=1), loss=loss, negatives=negatives).train()
    module.training_step(first_batch(ring, module), 0)  # fills a queue
    module.training_step(first_batch(ring, module), 1).backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but the `self.trainer` reference")
def test_positions_without_a_target_teach_nothing(ring):
    module = ring.module(ring.model(seed=1)).train()
    *inputs, targets, queries = next(iter(ring.data().train_dataloader()))
    # 6 training events in windows of 8: the first 2 positions are padding without a target
    assert not targets[:, :2].any()
    torch.manual_seed(0)
    loss = module.training_step(module.make_batch((*inputs, targets, queries)), 0)
    torch.manual_seed(0)
    doubled = [torch.cat([part, part]) for part in inputs]
    no_targets = torch.cat([targets, torch.zeros_like(targets)])
    nothing_to_learn = module.training_step(module.make_batch((*doubled, no_targets, queries.repeat(2))), 0)
    assert nothing_to_learn.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but the `self.trainer` reference")
def test_where_all_scores_are_equal_the_loss_is_that_of_guessing(ring):
    module = ring.module(ring.model(seed=1), negatives=Frequency(num_negatives=500, exponent=0.5)).train()
    with torch.no_grad():
        for parameter in module.model.item_tower.parameters():
            parameter.zero_()
    torch.manual_seed(0)
    # 30 items are equally frequent: the target, and negatives that stand for the other 29
    loss = module.training_step(first_batch(ring, module), 0).item()
    assert loss == pytest.approx(math.log(30), abs=0.02)


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(ring):
    first, again, other = (fitted(ring, epochs=2, seed=seed)[1].losses for seed in (1, 1, 2))
    assert len(first) == 8  # 60 windows in batches of 16, twice
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("variant", "epochs", "least"),
    [
        ("full softmax", 15, 0.8),
        ("frequency", 15, 0.8),
        ("mixed", 15, 0.8),
        ("hard", 15, 0.8),
        ("bpr", 15, 0.8),
        ("gbce", 60, 0.8),  # slower: without a bias of their own, all scores must first learn to be low
    ],
)
def test_what_follows_in_a_deterministic_log_is_learnt(ring, variant, epochs, least):
    loss, negatives = VARIANTS[variant]
    module = ring.module(ring.model(seed=1, width=16), learning_rate=0.02, loss=loss, negatives=negatives)
    before = measured(ring, module)
    trainer_of(epochs=epochs).fit(module, datamodule=ring.data(module=module))
    after = measured(ring, module)
    # 24 of 30 items are left after 6 are seen. Random order: sum of 1 / log2(rank + 1) over 10 ranks is 4.54, / 24 is
    # .19.
    assert before["validation/ndcg@10"] < 0.25
    assert after["validation/ndcg@10"] > least
    assert after["validation/recall@100"] == 1.0


def measured(world: Any, module: TowersModule, data: Any = None) -> dict[str, float]:
    (metrics,) = trainer_of(epochs=1).validate(module, datamodule=data or world.data(), verbose=False)
    return {name: float(value) for name, value in metrics.items()}


def test_validation_metrics_equal_those_of_the_evaluator_on_the_same_scores(build_world):
    # 140 items of which 120 have training events; targets are new to their query, seen by it, or seen by nobody.
    generator = np.random.default_rng(0)
    item_ids = [f"i{number}" for number in range(140)]
    histories = {}
    for number in range(40):
        items = [item_ids[place] for place in generator.choice(120, size=6, replace=False)]
        target = items[2] if number % 5 == 0 else item_ids[130] if number % 5 == 1 else item_ids[3 * number % 120]
        histories[f"q{number:02}"] = [(item_id, "train") for item_id in items] + [(target, "validation")]
    world = build_world(histories, item_ids=item_ids, history_length=4)
    data, module = world.data(), world.module(world.model(seed=3))
    with torch.no_grad():  # wide enough that no two scores are equal
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
        batch = next(iter(data.val_dataloader()))
        catalogue = module.model.eval().embed_catalogue()
        queries = module.model.query_tower(QueryTowerInputs(catalogue[batch[0]], *batch[1:-2]))
        scores = (queries @ catalogue.T).numpy()
    trained = set(world.dataset.event_rows()[world.dataset.events.places(["train"])].tolist())
    ranked = np.full((len(scores), 100), PADDING)
    for row, (own, seen) in enumerate(zip(scores, data.validation.inputs.seen_rows.tolist(), strict=True)):
        allowed = [item for item in np.argsort(-own).tolist() if item in trained and item not in seen]
        ranked[row, : len(allowed[:100])] = allowed[:100]
    relevant = data.validation.relevant
    hits, num_relevant = gains(ranked=ranked, relevant=relevant), count_relevant(relevant)
    expected_ndcg = ndcg(hits, num_relevant=num_relevant, k=10)
    expected_recall = recall(hits, num_relevant=num_relevant, k=100)
    # An unknown item and one that is not shown again cannot be found.
    assert not hits[np.isin(np.arange(40) % 5, [0, 1])].any()
    assert 0 < expected_ndcg.mean() < expected_recall.mean() < 1
    metrics = measured(world, module, data)
    assert metrics["validation/ndcg@10"] == pytest.approx(expected_ndcg.mean(), abs=1e-6)
    assert metrics["validation/recall@100"] == pytest.approx(expected_recall.mean(), abs=1e-6)


def test_validation_of_requests_with_several_relevant_items_equals_the_evaluator_too(ring):
    generator = np.random.default_rng(1)
    data, module = ring.data(), ring.module(ring.model(seed=3))
    num_rows = len(ring.dataset.items.catalogue)
    relevant = np.zeros((60, 14), dtype=np.int64)
    for row, count in zip(relevant, generator.integers(1, 15, size=60), strict=True):  # some have more than ten
        row[:count] = generator.choice(np.arange(FIRST, num_rows), size=count, replace=False)
    data.validation = replace(data.validation, relevant=relevant)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
        batch = next(iter(data.val_dataloader()))
        catalogue = module.model.eval().embed_catalogue()
        queries = module.model.query_tower(QueryTowerInputs(catalogue[batch[0]], *batch[1:-2]))
        scores = (queries @ catalogue.T).numpy()
    ranked = np.full((60, 100), PADDING)
    for row, (own, excluded) in enumerate(zip(scores, data.validation.excluded.tolist(), strict=True)):
        allowed = [item for item in np.argsort(-own).tolist() if item >= FIRST and item not in excluded]
        ranked[row, : len(allowed)] = allowed
    hits, num_relevant = gains(ranked=ranked, relevant=relevant), count_relevant(relevant)
    metrics = measured(ring, module, data)
    assert metrics["validation/ndcg@10"] == pytest.approx(ndcg(hits, num_relevant=num_relevant, k=10).mean(), abs=1e-6)
    expected_recall = recall(hits, num_relevant=num_relevant, k=100).mean()
    assert metrics["validation/recall@100"] == pytest.approx(expected_recall, abs=1e-6)


def test_a_model_that_scores_all_items_alike_finds_nothing_in_the_first_ten(ring):
    module = ring.module(ring.model(seed=1))
    with torch.no_grad():
        for parameter in module.model.item_tower.parameters():
            parameter.zero_()
    # All 24 items left are tied, and a tie counts against us: the target stands last.
    assert measured(ring, module) == {"validation/ndcg@10": 0.0, "validation/recall@100": 1.0}


def test_one_validation_does_not_count_in_the_next(ring):
    module = ring.module(ring.model(seed=1))
    assert measured(ring, module) == measured(ring, module)


def test_the_learning_rate_rises_for_a_twentieth_of_the_steps_and_then_falls(ring):
    _, recorder = fitted(ring, epochs=10, learning_rate=0.1)
    # 10 epochs of 4 steps: 2 steps of warming up, then (40 - step) / 38, and never less than a twentieth
    expected = [0.05, 0.1, *(0.1 * max((40 - step) / 38, 0.05) for step in range(2, 40))]
    np.testing.assert_allclose(recorder.rates, expected, rtol=1e-6)


def test_gradients_are_clipped_in_mixed_precision_too(ring):
    # Lightning refuses to clip for an optimiser that unscales gradients itself, as a fused one may.
    module = ring.module(ring.model(seed=1))
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ring.data(validation=None, module=module))
    assert trainer.global_step == 1


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(
    ("validation", "variant"),
    [("validation", "frequency"), (None, "frequency"), (None, "queue"), (None, "hard"), (None, "full softmax")],
)
def test_a_run_resumed_after_an_epoch_ends_as_one_that_was_never_stopped(ring, tmp_path, validation, variant):
    loss, negatives = VARIANTS[variant]

    def run(directory: Path, *, resume: Path | None) -> TowersModule:
        module = ring.module(ring.model(seed=1, dropout=0.2, id_dropout=0.2), loss=loss, negatives=negatives)
        keep = ModelCheckpoint(dirpath=directory, filename="{epoch}", save_top_k=-1, monitor=None)
        trainer = trainer_of(keep, epochs=3, directory=directory)
        trainer.fit(
            module, datamodule=ring.data(validation=validation, module=module), ckpt_path=resume and str(resume)
        )
        assert trainer.global_step == 12
        return module

    whole = run(tmp_path / "whole", resume=None).state_dict()
    for epoch in (0, 1):
        resumed = run(tmp_path / f"resumed{epoch}", resume=tmp_path / "whole" / f"epoch={epoch}.ckpt").state_dict()
        assert {name: torch.equal(weights, resumed[name]) for name, weights in whole.items()} == dict.fromkeys(
            whole, True
        )


def test_a_checkpoint_names_the_feature_spec_it_was_trained_for(ring, tmp_path):
    module = ring.module(ring.model(seed=1))
    trainer = trainer_of(epochs=1, directory=tmp_path)
    trainer.fit(module, datamodule=ring.data(module=module))
    trainer.save_checkpoint(tmp_path / "towers.ckpt")
    checkpoint = torch.load(tmp_path / "towers.ckpt", weights_only=True)
    assert checkpoint["spec_hash"] == ring.spec.hash
    # Neither the item table nor the sampling table: both come from the data.
    assert {name.split(".")[1] for name in checkpoint["state_dict"]} == {"query_tower", "item_tower"}
