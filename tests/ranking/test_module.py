from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.testing import assert_close

from ranking.data import RankerLists
from ranking.losses import listwise_kl, listwise_softmax
from ranking.model import Ranker, segments_of
from ranking.module import RankerData, RankerModule
from ranking.teacher import pretrained_encoder
from ranking.texts import TokenTexts

BuildRanker = Callable[..., Ranker]
BuildLists = Callable[..., RankerLists]

pytestmark = [
    # Lightning 2.6.6 with torch 2.13: its pytree copy builds a LeafSpec.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


class Recorder(pl.Callback):
    """Keeps each step's loss and batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        self.batches.append(batch)


@dataclass(frozen=True)
class Recipe:
    epochs: int = 1
    batch_size: int = 8
    num_negatives: int = 3
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    distillation_weight: float = 0.0
    temperature: float = 1.0
    seed: int = 0


def data_of(lists: RankerLists, recipe: Recipe, teacher_scores: NDArray[np.float32] | None = None) -> RankerData:
    return RankerData(
        lists=lists,
        texts=TokenTexts(lists),
        teacher_scores=teacher_scores,
        num_negatives=recipe.num_negatives,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )


def module_of(model: Ranker, recipe: Recipe, *, num_steps: int) -> RankerModule:
    return RankerModule(
        model=model,
        learning_rate=recipe.learning_rate,
        encoder_learning_rate=recipe.learning_rate / 2,
        weight_decay=recipe.weight_decay,
        distillation=partial(listwise_kl, temperature=recipe.temperature),
        distillation_weight=recipe.distillation_weight,
        num_steps=num_steps,
        spec_hash="abc",
    )


def fit(
    model: Ranker, lists: RankerLists, recipe: Recipe, teacher_scores: NDArray[np.float32] | None = None
) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=recipe.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[recorder],
    )
    num_steps = recipe.epochs * -(-len(lists.learnable()) // recipe.batch_size)
    trainer.fit(
        module_of(model.train(), recipe, num_steps=num_steps), datamodule=data_of(lists, recipe, teacher_scores)
    )
    assert len(recorder.losses) == num_steps
    return recorder


def test_the_same_seed_gives_the_same_losses(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=24)
    first, second, other = (fit(build_ranker(), lists, Recipe(epochs=2, seed=seed)).losses for seed in (0, 0, 1))
    assert first == second
    assert first != other


def test_the_first_loss_is_that_of_the_labels(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists, recipe = build_lists(num_lists=16), Recipe(batch_size=100)
    # the one batch holds all 14 learnable lists, the chosen candidate first
    tokens, dense, *_ = next(iter(data_of(lists, recipe).train_dataloader()))
    scores = build_ranker()(tokens, dense)
    expected = (torch.logsumexp(scores, dim=1) - scores[:, 0]).mean()
    assert fit(build_ranker(), lists, recipe).losses == [pytest.approx(expected.item(), rel=1e-5)]


def test_the_teacher_counts_where_it_has_scored(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=16)
    teacher_scores = np.random.default_rng(0).normal(size=lists.relevance.shape).astype(np.float32)
    teacher_scores[:8] = np.nan
    recipe = Recipe(batch_size=100, distillation_weight=3.0, temperature=2.0)
    tokens, dense, teacher, has_teacher = next(iter(data_of(lists, recipe, teacher_scores).train_dataloader()))
    # of the 7 + 7 learnable lists the second half is taught
    assert has_teacher.sum() == 7
    scores = build_ranker()(tokens, dense)
    label_loss = listwise_softmax(scores, torch.eye(4)[:1].expand(14, 4))
    taught = listwise_kl(scores[has_teacher], teacher[has_teacher], temperature=2.0)
    expected = (label_loss.sum() + 3.0 * taught.sum()) / 14
    assert fit(build_ranker(), lists, recipe, teacher_scores).losses == [pytest.approx(expected.item(), rel=1e-5)]


def test_a_teacher_of_weight_0_changes_nothing(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=24)
    teacher_scores = np.random.default_rng(0).normal(size=lists.relevance.shape).astype(np.float32)
    alone = fit(build_ranker(), lists, Recipe(epochs=2)).losses
    assert fit(build_ranker(), lists, Recipe(epochs=2), teacher_scores).losses == alone
    assert fit(build_ranker(), lists, Recipe(epochs=2, distillation_weight=1.0), teacher_scores).losses != alone


def test_a_list_without_all_its_scores_is_not_taught(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=2)  # of which the second is learnable
    teacher_scores = np.ones(lists.relevance.shape, dtype=np.float32)
    teacher_scores[lists.relevance > 0] = np.nan
    *_, teacher, has_teacher = next(iter(data_of(lists, Recipe(), teacher_scores).train_dataloader()))
    assert has_teacher.tolist() == [False]
    assert not teacher.any()


def test_a_student_alone_with_its_teacher_takes_over_its_order(
    build_ranker: BuildRanker, build_lists: BuildLists
) -> None:
    lists = build_lists(num_lists=16)
    teacher_scores = (2 * lists.dense[:, :, 3]).astype(np.float32)  # which the labels know nothing of
    student = build_ranker(text=False)
    fit(student, lists, Recipe(epochs=40, num_negatives=8, distillation_weight=100.0), teacher_scores)
    scores = student.eval()(torch.from_numpy(lists.tokens).long(), torch.from_numpy(lists.dense)).detach().numpy()
    assert np.corrcoef(scores.ravel(), teacher_scores.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("clue", ["dense", "text"])
def test_a_few_lists_are_learnt_by_heart(build_ranker: BuildRanker, build_lists: BuildLists, clue: str) -> None:
    lists = build_lists(num_lists=16)
    if clue == "text":
        # nothing but the word 7 tells the chosen candidate
        tokens = np.where(lists.tokens == 7, 8, lists.tokens)
        tokens[:, :, 6] = np.where(lists.relevance > 0, 7, tokens[:, :, 6])
        lists = replace(lists, tokens=tokens, dense=np.zeros_like(lists.dense))
    model = build_ranker(text=clue == "text", trained=clue == "dense")
    losses = fit(model, lists, Recipe(epochs=40, learning_rate=0.03, num_negatives=8)).losses
    assert losses[-1] < 0.3 < 1.5 < losses[0]
    learnable = lists.learnable()
    scores = model.eval()(torch.from_numpy(learnable.tokens).long(), torch.from_numpy(learnable.dense))
    np.testing.assert_array_equal(scores.argmax(dim=1), learnable.relevance.argmax(axis=1))


def test_each_epoch_draws_other_negatives(build_ranker: BuildRanker, build_lists: BuildLists) -> None:
    lists = build_lists(num_lists=16)
    first, second = fit(build_ranker(), lists, Recipe(epochs=2, batch_size=100)).batches
    for batch in (first, second):
        # the chosen candidate has the largest first dense feature of its list
        assert (batch[1][:, 0, 0] >= batch[1][:, :, 0].amax(dim=1)).all()
    chosen = [batch[1][:, 0].sort(dim=0).values for batch in (first, second)]
    others = [batch[1][:, 1:].flatten().sort().values for batch in (first, second)]
    assert_close(*chosen)
    assert not torch.equal(*others)


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_zero(build_ranker: BuildRanker) -> None:
    module = module_of(build_ranker(), Recipe(learning_rate=1.0), num_steps=20)
    configured = module.configure_optimizers()
    optimiser, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(21):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    # warm-up of 20 / 10 = 2 steps: 1/2, 1; then (20 - step) / 18: 18/18, 17/18, ..., 1/18, and 0 at step 20
    expected = [1 / 2, 1.0, *((20 - step) / 18 for step in range(2, 21))]
    np.testing.assert_allclose([rate for rate, _ in rates], expected)
    np.testing.assert_allclose([encoder for _, encoder in rates], np.array(expected) / 2)  # its rate is half


def test_every_weight_is_in_one_group(build_ranker: BuildRanker) -> None:
    model = build_ranker()
    groups = module_of(model, Recipe(), num_steps=5).configure_optimizers()["optimizer"].param_groups
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert model.encoder is not None
    assert {id(parameter) for parameter in groups[1]["params"]} == {id(one) for one in model.encoder.parameters()}


def test_a_ranker_without_text_has_one_rate(build_ranker: BuildRanker) -> None:
    module = module_of(build_ranker(text=False), Recipe(), num_steps=5)
    assert len(module.configure_optimizers()["optimizer"].param_groups) == 1


def test_frozen_layers_stay_as_they_were(build_lists: BuildLists, bert_checkpoint: Path) -> None:
    encoder = pretrained_encoder(bert_checkpoint, pad_token=0, dropout=0.0, trainable_layers=1)
    model = Ranker(
        encoder=encoder, num_dense=5, segments=segments_of(length=8, history_tokens=3), hidden=4, dropout=0.0
    )
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    fit(model, build_lists(num_lists=24), Recipe(epochs=2, learning_rate=0.1, weight_decay=0.5))
    changed = {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}
    # all of the last layer; the key's bias shifts all attention logits of a query alike, but decays like any weight
    assert changed == {name for name in before if name.startswith("layers.2.")}


def test_a_checkpoint_keeps_the_spec_of_its_features(build_ranker: BuildRanker) -> None:
    checkpoint: dict[str, object] = {}
    module_of(build_ranker(), Recipe(), num_steps=5).on_save_checkpoint(checkpoint)
    assert checkpoint == {"spec_hash": "abc"}
