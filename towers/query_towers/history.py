"""What a query tower reads of each event of a history: which item, in which place, when, of which kind and value.

Owns the parts whose sum an event's encoding is. How the events of a history act on one another is each tower's.

The gap from an event to the next one is no look into the future. A served history ends at its newest event, whose gap
ends at the request. In training each position t is asked for the item of t + 1 at the very instant of t + 1: this is
its request, and there its gap ends. So a state knows when it is asked, in training as in serving, and nothing else of
what comes later: neither item, kind or value of any later event, nor any later instant.

Shapes: B queries, L history length, D embedding width, G edges of gaps.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from features.spec import DAY_MS
from features.tower_inputs import QueryTowerInputs
from features.vocab import NumberScale
from towers.item_tower import embedding_table

DAY = 86_400
# From the pace of clicks (or of one page of ratings, whose rows share an instant) to seasons.
GAP_EDGES_SECONDS = (0, 1, 10, 60, 600, 3_600, 21_600, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 90 * DAY)
NUM_GAP_BUCKETS = len(GAP_EDGES_SECONDS) + 1  # 0: there is no such gap


class GapBuckets(nn.Module):
    """Bucket of a gap: how many edges it has reached."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In days, rounded as the feature is: a gap of exactly an edge has reached it, whoever compares.
        days = (np.array(GAP_EDGES_SECONDS) * 1000 / DAY_MS).astype(np.float32)
        self.register_buffer("edges", torch.from_numpy(days), persistent=False)

    def forward(self, gap_days: Tensor) -> Tensor:
        """[B, L] -> [B, L] from 1 on, for no gap is negative."""
        return (gap_days.unsqueeze(-1) >= self.edges).sum(dim=-1)  # [B, L, G] -> [B, L]; a searchsorted that exports


class HistoryEncoding(nn.Module):
    """Encoding of every event of a history; zero at padding.

    Args:
        history_length: L.
        num_event_kinds: VocabIds of kinds of events, padding and unknown included.
        value_scale: mean and deviation of the training events' values.
        width: D.
        positions: learn which place an event has, counted from the newest.
        gap_to_next: see the time until the next event, from the newest until the request.
        gap_to_previous: see the time since the event before.
        events: see the event's kind.
        values: see the event's value.
    """

    value_mean: Tensor
    value_deviation: Tensor

    def __init__(
        self,
        *,
        history_length: int,
        num_event_kinds: int,
        value_scale: NumberScale,
        width: int,
        positions: bool = True,
        gap_to_next: bool = True,
        gap_to_previous: bool = True,
        events: bool = True,
        values: bool = False,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(history_length, width) * 0.02) if positions else None
        self.gap_buckets = GapBuckets()
        self.gap_to_next = embedding_table(NUM_GAP_BUCKETS, width=width) if gap_to_next else None
        self.gap_to_previous = embedding_table(NUM_GAP_BUCKETS, width=width) if gap_to_previous else None
        self.events = embedding_table(num_event_kinds, width=width) if events else None
        self.values = nn.Linear(1, width, bias=False) if values else None
        self.register_buffer("value_mean", torch.tensor(value_scale.mean))
        self.register_buffer("value_deviation", torch.tensor(value_scale.deviation))

    def forward(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, L, D]."""
        encoded, mask = inputs.history_embeddings, inputs.history_mask
        if self.positions is not None:
            encoded = encoded + self.positions
        buckets = self.gap_buckets(inputs.history_gap_days) * mask
        if self.gap_to_next is not None:
            encoded = encoded + self.gap_to_next(buckets)
        if self.gap_to_previous is not None:
            # What was the gap to the next event there is the gap to the previous one here; the first has none.
            encoded = encoded + self.gap_to_previous(functional.pad(buckets[:, :-1], (1, 0)))
        if self.events is not None:
            encoded = encoded + self.events(inputs.history_events)
        if self.values is not None:
            # Bounded like every other number that is scaled.
            scaled = ((inputs.history_values - self.value_mean) / self.value_deviation).clamp(-5.0, 5.0)
            encoded = encoded + self.values(scaled.unsqueeze(-1))
        return encoded * mask.unsqueeze(-1)
