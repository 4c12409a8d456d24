"""The training loop of stage 1: what happens in a step, an epoch's validation, the optimiser.

Owns no layers and no data. Validation ranks the whole catalogue, never a sample of it.
"""

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from features.tower_inputs import QueryTowerInputs
from features.vocab import FIRST, PADDING
from towers.losses import sampled_softmax
from towers.model import TwoTower
from towers.negatives import FrequencySampler

MEASURED = 100  # length of the longest list that validation measures


class TowersModule(pl.LightningModule):
    """Trains a TwoTower by sampled softmax over every position of every window.

    Args:
        model: the towers.
        negatives: where negatives come from.
        item_counts: [R] training events of each row of the item table.
        recommendable: [R] rows that validation ranks.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        spec_hash: hash of the feature spec, kept in checkpoints.
    """

    sampling_probability: Tensor
    recommendable: Tensor

    def __init__(
        self,
        *,
        model: TwoTower,
        negatives: FrequencySampler,
        item_counts: NDArray[np.int64],
        recommendable: NDArray[np.bool_],
        learning_rate: float,
        weight_decay: float,
        spec_hash: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.negatives = negatives
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.spec_hash = spec_hash
        # What can be recommended without ever having been chosen is a negative too, as often as what was chosen once.
        probability = negatives.probabilities(np.maximum(item_counts, recommendable).astype(np.float64))
        self.register_buffer("sampling_probability", torch.from_numpy(probability).float(), persistent=False)
        self.register_buffer("recommendable", torch.from_numpy(recommendable), persistent=False)
        self._ndcg: list[Tensor] = []
        self._recall: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Mean loss over the batch's positions that have a target."""
        history_rows, *query, targets = batch
        negatives = self.negatives.sample(self.sampling_probability)
        # One pass of the item tower over the distinct items of the batch, whatever their role in it.
        rows, places = torch.unique(
            torch.cat([history_rows.flatten(), targets.flatten(), negatives.rows]), return_inverse=True
        )
        embeddings = self.model.embed_items(rows)
        history_places, target_places, negative_places = places.split(
            [history_rows.numel(), targets.numel(), len(negatives.rows)]
        )
        states = self.model.query_tower.states(
            QueryTowerInputs(embeddings[history_places].view(*history_rows.shape, -1), *query)
        )
        has_target = targets.flatten() >= FIRST
        states = states.flatten(0, 1)[has_target]  # [P, D]
        target_embeddings = embeddings[target_places[has_target]]
        loss = sampled_softmax(
            (states * target_embeddings).sum(dim=1),
            states @ embeddings[negative_places].T,
            log_expected_count=negatives.log_expected_count,
            is_target=targets.flatten()[has_target].unsqueeze(1) == negatives.rows.unsqueeze(0),
        ).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """NDCG and recall of each request over all recommendable items but the excluded ones."""
        history_rows, *query, relevant, excluded = batch
        items = self.model.embed_catalogue()
        queries = self.model.query_tower(QueryTowerInputs(items[history_rows], *query))
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
        """Log the means over all requests."""
        if self._ndcg:
            self.log("validation/ndcg@10", torch.cat(self._ndcg).mean(), prog_bar=True)
            self.log("validation/recall@100", torch.cat(self._recall).mean(), prog_bar=True)
        self._ndcg.clear()
        self._recall.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate rises for a twentieth of all steps and then falls linearly to a twentieth."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
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
