"""Item-to-item transitions: what followed an item in other queries' histories.

Owns the counts and their normalisation. Directed: after i comes j, not the reverse. Serve the table with
`weights.transition_weights`. Repeats of the same item are no transition; they are another retriever's.
"""

# Shapes: E events, V rows of the item table.

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.vocab import FIRST
from towers.retrievers.neighbours import NeighbourTable

IntArray = NDArray[np.integer[Any]]


def fit_transitions(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    num_rows: int,
    window: int = 20,
    distance_exponent: float = 0.5,
    popularity_discount: float = 0.3,
    num_neighbours: int = 200,
) -> NeighbourTable:
    """Count successors within a window and divide by how common source and target are.

    A pair at distance d (1 = the very next event) counts d ** -distance_exponent. With T the sums, out and into their
    row and column totals: value = T / (out ** (1 - popularity_discount) * into ** popularity_discount).

    Args:
        query_rows: [E] any number that tells queries apart; rows may interleave.
        item_rows: [E] item rows, oldest first within a query.
        num_rows: V.
        window: events after the source that count as successors.
        distance_exponent: decay with the distance, 0 = none.
        popularity_discount: 0 = probability of the target given the source, 0.5 = cosine-like, in [0, 1].
        num_neighbours: targets kept for a source.

    Raises:
        ValueError: lengths differ, a row is beyond the table, or an argument is out of its range.
    """
    if query_rows.shape != item_rows.shape or item_rows.max(initial=0) >= num_rows:
        raise ValueError(
            f"expected equally long rows below {num_rows}; got {query_rows.shape} and {item_rows.shape}, "
            f"highest item row {item_rows.max(initial=0)}"
        )
    if window < 1 or not 0 <= popularity_discount <= 1:
        raise ValueError(
            f"window must be at least 1 and popularity_discount in [0, 1]; got {window} and {popularity_discount}"
        )
    order = np.argsort(query_rows, kind="stable")
    queries, items = query_rows[order], item_rows[order]
    totals = csr_array((num_rows, num_rows), dtype=np.float64)
    for distance in range(1, min(window, len(items) - 1) + 1):
        sources, targets = items[:-distance], items[distance:]
        counts = queries[:-distance] == queries[distance:]
        counts &= (sources >= FIRST) & (targets >= FIRST) & (sources != targets)
        values = np.full(int(counts.sum()), float(distance) ** -distance_exponent)
        # Summed a distance at a time: memory grows with the pairs that exist, not with events times window.
        totals = totals + csr_array((values, (sources[counts], targets[counts])), shape=totals.shape)
    out: NDArray[np.float64] = totals.sum(axis=1)  # [V]
    into: NDArray[np.float64] = totals.sum(axis=0)  # [V]
    pairs = totals.tocoo()
    common = out[pairs.row] ** (1 - popularity_discount) * into[pairs.col] ** popularity_discount
    return NeighbourTable.from_pairs(
        source_rows=pairs.row.astype(np.int64),
        target_rows=pairs.col.astype(np.int64),
        values=pairs.data / common,
        num_rows=num_rows,
        num_neighbours=num_neighbours,
    )
