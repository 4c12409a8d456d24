"""The query tower of the GRU4Rec form: a recurrent state that every event moves on.

Source: Hidasi et al., ICLR 2016, "Session-based recommendations with recurrent neural networks".

Shapes: B queries, L history length, D embedding width.
"""

import torch
from torch import Tensor, nn

from features.tower_inputs import QueryTowerInputs
from towers.query_towers.context import QueryContext
from towers.query_towers.history import HistoryEncoding


class GatedRecurrence(nn.Module):
    """A layer of gated recurrent units that padding leaves as it is.

    Step by step rather than by torch.nn.GRU, whose export goes through a loop of torch's compiler and takes a minute.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.of_event = nn.Linear(width, 3 * width)
        self.of_state = nn.Linear(width, 3 * width)

    def forward(self, events: Tensor, history_mask: Tensor) -> Tensor:
        """[B, L, D], [B, L] true where there is an event -> states after each position [B, L, D]."""
        state = torch.zeros_like(events[:, 0])
        states = []
        for event, is_event in zip(self.of_event(events).unbind(1), history_mask.unbind(1), strict=True):
            event_reset, event_update, event_new = event.chunk(3, dim=-1)
            state_reset, state_update, state_new = self.of_state(state).chunk(3, dim=-1)
            new = torch.tanh(event_new + torch.sigmoid(event_reset + state_reset) * state_new)
            moved = torch.lerp(new, state, torch.sigmoid(event_update + state_update))
            state = torch.where(is_event.unsqueeze(-1), moved, state)
            states.append(state)
        return torch.stack(states, dim=1)


class GruQueryTower(nn.Module):
    """Gated recurrent layers over encoded events, each with the query's context; see protocol.py."""

    def __init__(
        self,
        *,
        history: HistoryEncoding,
        context: QueryContext,
        width: int,
        num_layers: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.history = history
        self.context = context
        self.input_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(GatedRecurrence(width=width) for _ in range(num_layers))
        self.output_norm = nn.LayerNorm(width)

    def states(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, L, D]."""
        context = self.context(inputs).unsqueeze(1)
        states = self.input_dropout(self.history(inputs) + context)
        for layer in self.layers:
            states = layer(states, inputs.history_mask)
        # Without an event the state is zero, and the context alone what the query is answered from.
        normalised: Tensor = self.output_norm(states + context)
        return normalised

    def forward(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """[B, D]."""
        return self.states(inputs)[:, -1]
