"""The training loop of stage 1: what happens in a step, an epoch's validation, the optimiser.

Owns no layers and no data. Validation ranks the whole catalogue, never a sample of it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from features.tower_inputs import QueryTowerInputs
from features.vocab import PADDING
from towers.losses.loss import Loss
from towers.model import TwoTower
from towers.negatives.items import QueryRows, TrainingItems
from towers.negatives.sampler import NegativeSource
from towers.objective import objective_of
from towers.ranks import mean_over_ranks
from towers.trained_text import TrainedText
from towers.training_batch import BatchMaker, TrainingBatch

MEASURED = 100  # length of the longest list that validation measures


class TowersModule(pl.LightningModule):
    """Trains a TwoTower on every position of every window that has a target.

    Args:
        model: the towers.
        loss: what is minimised.
        negatives: where negatives come from, if the loss asks for a sample.
        item_counts: [R] training events of each row of the item table.
        recommendable: [R] rows that validation ranks.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        spec_hash: hash of the feature spec, kept in checkpoints.
        of_queries: items of each query's training events, which mined negatives spare.
        text: the encoder of texts, where it is trained too; batches then carry the tokens of what queries say.

    Raises:
        UnfitPieces: loss, negatives and items do not fit.
    """

    recommendable: Tensor

    def __init__(
        self,
        *,
        model: TwoTower,
        loss: Loss,
        negatives: NegativeSource,
        item_counts: NDArray[np.int64],
        recommendable: NDArray[np.bool_],
        learning_rate: float,
        weight_decay: float,
        spec_hash: str,
        of_queries: QueryRows | None = None,
        text: TrainedText | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.text = text
        items = TrainingItems(counts=item_counts, recommendable=recommendable, of_queries=of_queries)
        self.objective = objective_of(loss=loss, negatives=negatives, items=items, prefix_widths=model.prefix_widths)
        self.make_batch = BatchMaker(
            num_rows=len(item_counts),
            always=self.objective.always,
            of_queries=None if negatives.hard is None else of_queries,
        )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.spec_hash = spec_hash
        self.register_buffer("recommendable", torch.from_numpy(recommendable), persistent=False)
        self._ndcg: list[Tensor] = []
        self._recall: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Embed the items' texts by the encoder as it stands."""
        self.refresh_texts()

    def on_validation_start(self) -> None:
        """Embed the items' texts by the encoder as it stands."""
        self.refresh_texts()

    def refresh_texts(self) -> None:
        """Embed the items' texts by the encoder as it stands, where it is trained and has changed."""
        if self.text is not None:
            self.text.refresh(self.model.item_table)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Mean loss over the positions that have a target, of all ranks."""
        with nullcontext() if self.text is None else self.text.learning(self.model.item_table):
            # One pass of the item tower over the distinct items of the batch, whatever their role in it.
            embeddings = self.model.embed_items(batch.rows)
            states = self.model.query_tower.states(self._query_inputs(embeddings[batch.history_places], batch.query))
            losses = self.objective(
                self.model,
                batch,
                states=states.flatten(0, 1)[batch.positions],  # [P, D]
                embeddings=embeddings,
                step=batch_idx,
            )
        loss = mean_over_ranks(losses)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _query_inputs(self, history_embeddings: Tensor, query: Sequence[Tensor]) -> QueryTowerInputs[Tensor]:
        if self.text is not None and query[-1].shape[1]:
            query = (*query[:-1], self.text(query[-1]))  # tokens [B, S] -> [B, E]
        return QueryTowerInputs(history_embeddings, *query)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """NDCG and recall of each request over all recommendable items but the excluded ones."""
        history_rows, *query, relevant, excluded = batch
        items = self.model.embed_catalogue()
        queries = self.model.query_tower(self._query_inputs(items[history_rows], query))
        scores = queries @ items.T  # [B, D] @ [D, R] -> [B, R]
        relevant_scores = scores.gather(1, relevant)  # [B, M]
        scores = scores.masked_fill(~self.recommendable, float("-inf")).scatter(1, excluded, float("-inf"))
        # An item that cannot be recommended is not found; a tie counts against us.
        is_relevant = relevant != PADDING
        found = is_relevant & (scores.gather(1, relevant) == relevant_scores)
        best = scores.topk(min(MEASURED + 1, scores.shape[1]), dim=1).values  # one more, to see a tie at the end
        better = (best.unsqueeze(1) >= relevant_scores.unsqueeze(2)).sum(dim=2) - 1  # [B, M]
        num_relevant = is_relevant.sum(dim=1)
        discounts = 1.0 / torch.log2(torch.arange(2.0, 12.0, device=scores.device))  # of the first ten ranks
        gains = torch.where(found & (better < 10), discounts[better.clamp(0, 9)], 0.0).sum(dim=1)
        ideal = discounts.cumsum(0)[num_relevant.clamp(1, 10) - 1]
        self._ndcg.append(gains / ideal)
        self._recall.append((found & (better < MEASURED)).sum(dim=1) / num_relevant.clamp(min=1))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all requests, which are the same on every rank."""
        if self._ndcg:
            self.log("validation/ndcg@10", torch.cat(self._ndcg).mean(), prog_bar=True, sync_dist=True)
            self.log("validation/recall@100", torch.cat(self._recall).mean(), prog_bar=True, sync_dist=True)
        self._ndcg.clear()
        self._recall.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate rises for a twentieth of all steps and then falls linearly to a twentieth."""
        # Fused: 9 times as fast for a million items on a CPU. In mixed precision Lightning does not clip for it.
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters())}]
        if self.text is not None:
            groups.append({"params": self.text.trained, "lr": self.text.settings.learning_rate})
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)
        num_steps = int(self.trainer.estimated_stepping_batches)
        warm_up = max(num_steps // 20, 1)

        def rate(step: int) -> float:
            falling = (num_steps - step) / max(num_steps - warm_up, 1)
            return min((step + 1) / warm_up, max(falling, 0.05))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the feature spec's hash beside the weights."""
        checkpoint["spec_hash"] = self.spec_hash
