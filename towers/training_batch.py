"""What a training step needs of its windows, made on the host before it goes to the device.

How many positions have a target and how many items a batch holds is known to the host alone: on a device, counting
them would make every step wait for it.

Shapes: B windows, L history length, P positions with a target, A rows that every step embeds, U rows that this step
embeds, T events of the query that had most.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from features.vocab import FIRST
from towers.negatives.items import QueryRows


class TrainingBatch(NamedTuple):
    """Tensors of a training step.

    Attributes:
        history_rows: [B, L] ItemRow.
        query: what else the query tower reads.
        rows: [U] ItemRow to embed, each once: first those of every step, then the batch's others.
        history_places: [B, L] place of each of `history_rows` in `rows`.
        positions: [P] which of the B * L positions have a target.
        target_rows: [P] ItemRow.
        target_places: [P] place of each target in `rows`.
        own_rows: [B, T] ItemRow of the training events of each window's query, PADDING after its last; T is 0 where
            nobody asks.
    """

    history_rows: Tensor
    query: tuple[Tensor, ...]
    rows: Tensor
    history_places: Tensor
    positions: Tensor
    target_rows: Tensor
    target_places: Tensor
    own_rows: Tensor


class BatchMaker:
    """Makes training batches of windows.

    Args:
        num_rows: R, of the item table.
        always: [A] ItemRow that every step embeds, whatever is in its windows.
        of_queries: what each query had, if a step asks.
    """

    def __init__(self, *, num_rows: int, always: Tensor, of_queries: QueryRows | None) -> None:
        self.always = always
        self.of_queries = of_queries
        self._place = torch.full((num_rows,), -1)
        self._place[always] = torch.arange(len(always))

    def __call__(self, windows: Sequence[Tensor]) -> TrainingBatch:
        """(history rows, what else the query tower reads ..., targets, queries) of B windows."""
        history_rows, *query, targets, queries = windows
        positions = (targets.flatten() >= FIRST).nonzero().squeeze(1)
        target_rows = targets.flatten()[positions]
        all_rows = torch.cat([history_rows.flatten(), target_rows])
        places = self._place[all_rows]
        is_other = places < 0
        others, among_others = torch.unique(all_rows[is_other], return_inverse=True)
        places[is_other] = len(self.always) + among_others
        history_places, target_places = torch.split(places, [history_rows.numel(), len(positions)])
        own_rows = queries.new_empty((len(queries), 0)) if self.of_queries is None else self.of_queries.of(queries)
        return TrainingBatch(
            history_rows=history_rows,
            query=tuple(query),
            rows=torch.cat([self.always, others]),
            history_places=history_places.view_as(history_rows),
            positions=positions,
            target_rows=target_rows,
            target_places=target_places,
            own_rows=own_rows,
        )
