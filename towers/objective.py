"""From the states of a step to its losses: which items a target is compared with, and by which loss.

Owns how loss and negatives come together, and that they fit. The losses themselves and the sources of negatives are
files of their own.

Shapes: R rows of the item table, U of them embedded for the batch, P positions with a target, D embedding width, N
items that a target competes with, M negatives shared by all positions, H mined for each.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from features.vocab import FIRST
from towers.errors import UnfitPieces
from towers.losses.chunks import MAX_LOGITS, in_chunks
from towers.losses.loss import Loss, OverAll, OverSample
from towers.model import TwoTower
from towers.negatives.hard import HardNegatives
from towers.negatives.items import TrainingItems
from towers.negatives.sampler import NegativeSource, SharedNegatives
from towers.training_batch import TrainingBatch


class Objective(nn.Module):
    """What a step minimises.

    Attributes:
        summary: what a target competes with, for whoever reads the log.
        always: [A] ItemRow that every step embeds; it stays on the host.
        prefix_widths: numbers of first coordinates that are to do as embeddings by themselves.
        max_logits: logits that are made at a time.
    """

    def __init__(self, *, summary: str, always: Tensor, prefix_widths: Sequence[int], max_logits: int) -> None:
        super().__init__()
        self.prefix_widths = tuple(prefix_widths)
        self.summary = summary
        self.always = always
        self.max_logits = max_logits

    def forward(
        self, model: TwoTower, batch: TrainingBatch, *, states: Tensor, embeddings: Tensor, step: int
    ) -> Tensor:
        """Losses of the positions with a target.

        Args:
            model: embeds whatever else the loss asks for.
            batch: of the step.
            states: [P, D] query embeddings at the positions.
            embeddings: [U, D] of the batch's rows.
            step: of the epoch.

        Returns:
            [P].
        """
        raise NotImplementedError

    def over_widths(self, losses: Callable[[int], Tensor], *, width: int) -> Tensor:
        """Mean [P] of the losses at all widths, the whole one among them.

        Source: Kusupati et al., NeurIPS 2022, "Matryoshka representation learning".
        """
        if not self.prefix_widths:
            return losses(width)
        return torch.stack([losses(own) for own in (*self.prefix_widths, width)]).mean(dim=0)


class FullObjective(Objective):
    """Every item is a negative of every position."""

    def __init__(
        self,
        loss: OverAll,
        items: TrainingItems,
        *,
        prefix_widths: Sequence[int] = (),
        max_logits: int = MAX_LOGITS,
    ) -> None:
        super().__init__(
            summary=f"a target competes with all {len(items.compared)} items; no negatives are drawn",
            always=torch.from_numpy(items.compared),
            prefix_widths=prefix_widths,
            max_logits=max_logits,
        )
        self.loss = loss

    def forward(
        self, model: TwoTower, batch: TrainingBatch, *, states: Tensor, embeddings: Tensor, step: int
    ) -> Tensor:
        """[P]; see Objective."""
        items = embeddings[: len(self.always)]  # [N, D]

        def losses(states: Tensor, targets: Tensor) -> Tensor:
            def of_first(width: int) -> Tensor:
                return self.loss(states[:, :width], items[:, :width], targets)

            return self.over_widths(of_first, width=items.shape[1])

        return in_chunks(losses, states, batch.target_places, num_logits=len(items), max_logits=self.max_logits)


class SampledObjective(Objective):
    """A sample of negatives that all positions share, and mined ones for each position if there are settings for it."""

    def __init__(
        self,
        loss: OverSample,
        shared: SharedNegatives,
        hard: HardNegatives | None,
        *,
        num_items: int,
        prefix_widths: Sequence[int] = (),
        max_logits: int = MAX_LOGITS,
    ) -> None:
        super().__init__(
            summary=f"a target competes with negatives drawn from {num_items} items",
            always=torch.empty(0, dtype=torch.long),
            prefix_widths=prefix_widths,
            max_logits=max_logits,
        )
        self.loss = loss
        self.shared = shared
        self.hard = hard

    def forward(
        self, model: TwoTower, batch: TrainingBatch, *, states: Tensor, embeddings: Tensor, step: int
    ) -> Tensor:
        """[P]; see Objective."""
        negatives = self.shared(batch.target_rows, capacity=batch.history_rows.numel())
        items = model.embed_items(negatives.rows)  # [M, D]
        mined = () if self.hard is None else self._mined(self.hard, model, batch, states=states, step=step)
        log_expected_count = negatives.log_expected_count
        if mined:
            # A mined item is in the sample for certain, and stands for itself alone.
            log_expected_count = torch.cat([log_expected_count, log_expected_count.new_zeros(mined[0].shape[1])])

        def losses(states: Tensor, targets: Tensor, target_rows: Tensor, *mined: Tensor) -> Tensor:
            left_out = _left_out(negatives.rows, target_rows)
            if mined:
                left_out = torch.cat([left_out, _left_out(mined[0], target_rows)], dim=1)

            def of_first(width: int) -> Tensor:
                own = states[:, :width]
                logits = own @ items[:, :width].T  # [P, D] @ [D, M] -> [P, M]
                if mined:
                    # [P, H, D] @ [P, D, 1] -> [P, H]
                    of_mined = (mined[1][..., :width] @ own.unsqueeze(2)).squeeze(2)
                    logits = torch.cat([logits, of_mined], dim=1)
                positive = (own * targets[:, :width]).sum(dim=1)
                return self.loss(positive, logits, log_expected_count=log_expected_count, left_out=left_out)

            return self.over_widths(of_first, width=items.shape[1])

        return in_chunks(
            losses,
            states,
            embeddings[batch.target_places],
            batch.target_rows,
            *mined,
            num_logits=len(log_expected_count),
            max_logits=self.max_logits,
        )

    def _mined(
        self, hard: HardNegatives, model: TwoTower, batch: TrainingBatch, *, states: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """[P, H] ItemRow and [P, H, D] embeddings of what is mined for each position."""
        if hard.is_due(step):
            hard.catalogue = _as_released(model)
        rows = hard(states, batch.own_rows, windows=batch.positions // batch.history_rows.shape[1])
        if rows.numel() > len(model.item_table):  # then the whole catalogue is fewer rows
            return rows, model.embed_catalogue()[rows]
        return rows, model.embed_items(rows.flatten()).view(*rows.shape, -1)


@torch.no_grad()
def _as_released(model: TwoTower) -> Tensor:
    """[R, D] embeddings of the catalogue without dropout."""
    was_training = model.item_tower.training
    model.item_tower.eval()
    embeddings = model.embed_catalogue()
    model.item_tower.train(was_training)
    return embeddings


def _left_out(rows: Tensor, target_rows: Tensor) -> Tensor:
    """[M] or [P, H] ItemRow, [P] -> [P, M] or [P, H]: the position's own target, or none."""
    return (rows == target_rows.unsqueeze(1)) | (rows < FIRST)


def objective_of(
    *, loss: Loss, negatives: NegativeSource, items: TrainingItems, prefix_widths: Sequence[int] = ()
) -> Objective:
    """What these settings minimise over these items.

    Args:
        loss: of a target.
        negatives: where it draws them from, if it does.
        items: that targets compete with.
        prefix_widths: numbers of first coordinates that are to do as embeddings by themselves.

    Raises:
        UnfitPieces: they do not fit one another or the items.
    """
    num_items = len(items.compared)
    over_all = loss.over_all(num_items)
    if over_all is not None:
        if negatives.hard is not None:
            raise UnfitPieces(
                f"negatives are to be mined, and the full softmax has all {num_items} items as negatives: set "
                "loss=sampled_softmax, or negatives=frequency"
            )
        return FullObjective(over_all, items, prefix_widths=prefix_widths)
    if negatives.hard is not None and not loss.takes_hard:
        raise UnfitPieces(
            f"{type(loss).__name__} corrects for how negatives are drawn, and mined ones are not drawn: set "
            "loss=sampled_softmax, or negatives=uniform"
        )
    samplers = negatives.samplers(items)
    return SampledObjective(
        loss.over_sample(num_items),
        SharedNegatives(samplers),
        None if negatives.hard is None else HardNegatives(negatives.hard, items),
        num_items=num_items,
        prefix_widths=prefix_widths,
    )
