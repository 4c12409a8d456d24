"""Queries that an index is measured on: validation requests as the query tower embeds them, and the items beside.

Owns which requests these are. An index learns of no query, so to a cut that knows their events they are as good.
"""

import numpy as np

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.candidates import StageOne
from towers.errors import UnfitPieces
from towers.index.recall import HeldOut

SPLIT = "validation"


def held_out(stage_one: StageOne, *, dataset: Dataset, protocol: RequestProtocol, k: int, max_queries: int) -> HeldOut:
    """Items of a cut's index as of its newest tick, and queries spread over the validation requests.

    Raises:
        UnfitPieces: there is no such request.
    """
    asked, stage1 = protocol.asked(dataset, SPLIT), stage_one.stage1
    if not len(asked):
        raise UnfitPieces(f"an index is measured on requests of {SPLIT}, and the log has none")
    asked = asked.take(slice(None, None, max(-(-len(asked) // max_queries), 1)))
    inputs = stage1.query_inputs(asked.states(dataset, length=stage1.spec.stored_history))
    rows = np.flatnonzero(stage1.recommendable)
    return HeldOut(items=stage1.indexed(rows), rows=rows, queries=stage1.embed(inputs, models=stage_one.models), k=k)
