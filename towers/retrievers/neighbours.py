"""Sparse scores of items after items: the form in which transitions, item-kNN, EASE and BM25 are kept and served.

Owns the table, its files and the sum over a history. numpy only; what an entry means is the fitting module's.
"""

# Shapes: N queries, L length of the histories, C candidates of a query, V rows of the item table, P pairs kept, B
# sources and M targets of a block.

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.vocab import FIRST
from towers.retrievers.sparse import SparseScores

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]

FILES = ("indptr", "indices", "values")


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """Score of target item j after source item i, in compressed rows (CSR), targets ascending within a source.

    Sources are rows of the item table, or a query's words (bm25.py): V is then their number.
    """

    indptr: NDArray[np.int64]  # [V + 1]
    indices: NDArray[np.int32]  # [P]
    values: FloatArray  # [P]

    def __post_init__(self) -> None:
        """Refuse arrays that are no CSR; contents are covered by the release's hashes."""
        dtypes = (self.indptr.dtype, self.indices.dtype, self.values.dtype)
        if dtypes != (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float32)):
            raise ValueError(f"expected indptr int64, indices int32, values float32; got {dtypes}")
        if self.indptr.ndim != 1 or self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise ValueError(f"indices {self.indices.shape} and values {self.values.shape} must be equally long")
        if len(self.indptr) == 0 or self.indptr[0] != 0 or self.indptr[-1] != len(self.indices):
            raise ValueError(f"indptr must start at 0 and end at {len(self.indices)}, the number of pairs")

    @classmethod
    def from_pairs(
        cls,
        *,
        source_rows: IntArray,
        target_rows: IntArray,
        values: NDArray[np.floating[Any]],
        num_rows: int,
        num_neighbours: int,
    ) -> Self:
        """Keep for every source the targets of largest absolute value, the lower row first among equals.

        Args:
            source_rows: [pairs] item rows in FIRST..V-1; a (source, target) pair stands once.
            target_rows: [pairs] item rows in FIRST..V-1.
            values: [pairs] scores; zeros are left out.
            num_rows: V, with padding and unknown.
            num_neighbours: targets kept for a source; bounds what the table and a request cost.

        Raises:
            ValueError: a row is outside the catalogue.
        """
        both = (source_rows, target_rows)
        if len(source_rows) and (min(r.min() for r in both) < FIRST or max(r.max() for r in both) >= num_rows):
            raise ValueError(f"item rows must lie in {FIRST}..{num_rows - 1}; padding and unknown have no neighbours")
        kept = strongest(source_rows=source_rows, target_rows=target_rows, values=values, num_neighbours=num_neighbours)
        kept = kept[np.lexsort((target_rows[kept], source_rows[kept]))]
        indptr = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(source_rows[kept], minlength=num_rows), out=indptr[1:])
        return cls(indptr=indptr, indices=target_rows[kept].astype(np.int32), values=values[kept].astype(np.float32))

    @property
    def num_rows(self) -> int:
        """V."""
        return len(self.indptr) - 1

    def score_candidates(self, *, history_rows: IntArray, candidate_rows: IntArray, weights: FloatArray) -> FloatArray:
        """Weighted sum over the history of each candidate's score after it, [N, C].

        The cost grows with the neighbours of the history, not with V. A row beyond the table (an item newer than the
        fit), padding and unknown have no neighbours and score 0.

        Args:
            history_rows: [N, L] item rows, 0 = padding.
            candidate_rows: [N, C] item rows, 0 = padding.
            weights: [N, L] of weights.py.
        """
        scores = np.zeros(candidate_rows.shape, dtype=np.float32)
        for query in range(len(candidate_rows)):
            targets, terms = self._terms(history_rows[query], weights[query])
            wanted, place_of = np.unique(candidate_rows[query].astype(np.int32), return_inverse=True)
            if len(targets) == 0 or len(wanted) == 0:
                continue
            places = np.minimum(np.searchsorted(wanted, targets), len(wanted) - 1)
            found = wanted[places] == targets
            sums = np.bincount(places[found], weights=terms[found], minlength=len(wanted))
            scores[query] = sums[place_of]
        return scores

    def score_history(self, history_rows: IntArray, weights: FloatArray) -> SparseScores:
        """Weighted sum over one history [L] of the score of every item that follows any of it."""
        return SparseScores.summed(*self._terms(history_rows, weights))

    def score_all(self, *, history_rows: IntArray, weights: FloatArray) -> FloatArray:
        """Weighted sum over the history of every item's score after it, [N, V]."""
        scores = np.zeros((len(history_rows), self.num_rows), dtype=np.float32)
        for query in range(len(history_rows)):
            targets, terms = self._terms(history_rows[query], weights[query])
            scores[query] = np.bincount(targets, weights=terms, minlength=self.num_rows)
        return scores

    def _terms(self, history: IntArray, weights: FloatArray) -> tuple[NDArray[np.int32], FloatArray]:
        """Targets of one history and what each adds; a target of several sources stands several times."""
        counted = (weights != 0) & (history >= FIRST) & (history < self.num_rows)
        sources = history[counted]
        starts, stops = self.indptr[sources], self.indptr[sources + 1]
        lengths = stops - starts
        # Places of all rows one after the other: each row's start, shifted by what stands before it.
        ends = np.cumsum(lengths)
        places = np.repeat(stops - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)
        return self.indices[places], self.values[places] * np.repeat(weights[counted], lengths)

    def save(self, directory: Path) -> None:
        """Write one .npy file an array."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Map the files into memory; processes that load the same files share them.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged or holds another type.
        """
        # asarray drops the memmap subclass, which slows every index, and keeps the mapping.
        indptr, indices, values = (
            np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in FILES
        )
        return cls(indptr=indptr, indices=indices, values=values)


def strongest(
    *, source_rows: IntArray, target_rows: IntArray, values: NDArray[np.floating[Any]], num_neighbours: int
) -> NDArray[np.int64]:
    """Places of the pairs to keep: for each source the `num_neighbours` targets of largest absolute value."""
    order = np.lexsort((target_rows, -np.abs(values), source_rows))
    order = order[values[order] != 0]
    in_order = source_rows[order]
    # Place within its source: own place less the place where the source begins.
    place = np.arange(len(order)) - np.searchsorted(in_order, in_order, side="left")
    kept: NDArray[np.int64] = order[place < num_neighbours]
    return kept


def strongest_of(
    block: NDArray[np.floating[Any]], *, num_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating[Any]]]:
    """The same for values [B, M] of some sources and all targets: places of source and target, and the values kept."""
    size = np.abs(block)
    if num_neighbours < block.shape[1]:  # a partition of rows is much faster than an order of all pairs
        size[size < np.partition(size, -num_neighbours, axis=1)[:, -num_neighbours, None]] = 0.0
    sources, targets = np.nonzero(size)
    values = block[sources, targets]
    kept = strongest(source_rows=sources, target_rows=targets, values=values, num_neighbours=num_neighbours)
    return sources[kept], targets[kept], values[kept]
