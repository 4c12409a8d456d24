"""What every query tower is to training, export and validation.

Owns no layers: history.py and context.py hold what the towers share, and each tower has a file of its own.

Shapes: B queries, L history length, D embedding width.
"""

from typing import Protocol

from torch import Tensor

from features.tower_inputs import QueryTowerInputs
from towers.query_towers.context import QueryContext


class QueryTower(Protocol):
    """Embeddings of queries whose inner product with an item's embedding is the retrieval score.

    Padding stands left of a history and is looked at by nobody: the state of a padding place is that of a query
    without history, so that what such a query is answered from is what every query's first event has taught.
    """

    context: QueryContext

    def states(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """Query embedding after each position, from that position and earlier ones alone: [B, L, D]."""
        ...

    def __call__(self, inputs: QueryTowerInputs[Tensor]) -> Tensor:
        """Query embedding after the whole history, which is the last state: [B, D]."""
        ...
