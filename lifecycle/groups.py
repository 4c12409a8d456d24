"""The main slice cut into groups: by how popular the chosen item was, and by how long the query's history was.

Owns the edges of the groups and their names. What a slice is stands in slices.py.
"""

# Shapes: N requests, M relevant items of the request that has most, R rows of the item table.

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.requests import PastRequests
from features.vocab import PADDING
from lifecycle.slices import MIN_REQUESTS, Slice, slice_of

NUM_DECILES = 10
HISTORY_EDGES = (0, 5, 20, 50, 200)  # the last event of each group but the open one
BY_POPULARITY, BY_HISTORY = "popularity of the chosen item", "length of the history"


def groups_of(
    dataset: Dataset, asked: PastRequests, *, main: Slice, num_had: NDArray[np.int64], recommendable: NDArray[np.bool_]
) -> dict[str, list[Slice]]:
    """Groups of the main slice by what they are cut by; those of fewer than MIN_REQUESTS requests are left out.

    Args:
        dataset: the log.
        asked: N requests with what is looked for.
        main: the slice that is cut; its lists are measured.
        num_had: [R] queries that had each item in training.
        recommendable: [R] whose deciles are taken.
    """
    kinds = {
        BY_POPULARITY: _by_popularity(asked, num_had=num_had, recommendable=recommendable),
        BY_HISTORY: _by_history(dataset, asked),
    }
    groups = {}
    for kind, parts in kinds.items():
        slices = [
            slice_of(asked, name=name, note="", exclude_seen=main.exclude_seen, kept=kept) for name, kept in parts
        ]
        groups[kind] = [own for own in slices if len(own.places) >= MIN_REQUESTS]
    return groups


def popularity_deciles(num_had: NDArray[np.int64], *, recommendable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[R] 1 for the tenth of the recommendable items that fewest queries had, to 10; 0 for what is not recommendable.

    Items that equally many queries had stand in one decile, so the low ones, where many are equal, may be empty.
    """
    in_order = np.sort(num_had[recommendable])
    # The share of items that at most as many queries had: of the most popular ones it is 1.
    share = np.searchsorted(in_order, num_had, side="right") / max(len(in_order), 1)
    return np.where(recommendable, np.ceil(share * NUM_DECILES).astype(np.int64), 0)


def _by_popularity(
    asked: PastRequests, *, num_had: NDArray[np.int64], recommendable: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    deciles = popularity_deciles(num_had, recommendable=recommendable)
    of_pairs = np.where(asked.relevant == PADDING, 0, deciles[asked.relevant])  # [N, M]
    for decile in range(1, NUM_DECILES + 1):
        of_decile = num_had[deciles == decile]
        if len(of_decile):
            yield f"{decile}: {_range(int(of_decile.min()), int(of_decile.max()))}", of_pairs == decile


def _by_history(dataset: Dataset, asked: PastRequests) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    lengths = (asked.stops - dataset.events.offsets[asked.queries])[:, None]  # [N, 1]
    everything = np.ones(asked.relevant.shape, dtype=np.bool_)
    lowest = 0
    for edge in HISTORY_EDGES:
        yield _range(lowest, edge), (lengths >= lowest) & (lengths <= edge) & everything
        lowest = edge + 1
    yield f"over {HISTORY_EDGES[-1]}", (lengths >= lowest) & everything


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
