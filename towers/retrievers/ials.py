"""iALS: factors of queries and items by alternating least squares over all pairs, had or not.

Owns the solution, and the factor of a history that the fit has not seen, which needs no further fitting. A baseline:
nothing of it is released.
"""

# Shapes: Q queries, V rows of the item table, D factors, N histories to score, H items of the longest, B rows solved at
# once.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.vocab import FIRST
from towers.retrievers.interactions import interaction_matrix

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]

BLOCK = 1024  # rows whose systems [B, D, D] are solved at once: 17 MB at 64 factors


@dataclass(frozen=True, eq=False)
class Ials:
    """Item factors, and what is needed to fold a history in.

    Attributes:
        item_factors: [V, D]; 0 for an item that nobody had.
        weight: of a pair that was not had, beside 1 for one that was.
        regularisation: as in `fit_ials`.
    """

    item_factors: FloatArray
    weight: float
    regularisation: float

    def score_all(self, *, seen_rows: IntArray) -> FloatArray:
        """Inner products of the histories' factors with those of all items, [N, V].

        Args:
            seen_rows: [N, H] distinct items of each, 0 = padding.
        """
        owners, columns = np.nonzero(seen_rows >= FIRST)
        shape = (len(seen_rows), len(self.item_factors))
        histories = csr_array((np.ones(len(owners)), (owners, seen_rows[owners, columns])), shape=shape)
        had = np.abs(self.item_factors).any(axis=1)
        factors = solve_rows(
            histories,
            self.item_factors,
            weight=self.weight,
            regularisation=self.regularisation,
            num_columns=int(had.sum()),
        )
        scores: FloatArray = factors @ self.item_factors.T
        return scores


def fit_ials(
    *,
    query_rows: IntArray,
    item_rows: IntArray,
    num_rows: int,
    num_factors: int = 64,
    weight: float = 0.1,
    regularisation: float = 0.003,
    num_sweeps: int = 8,
    generator: np.random.Generator,
) -> Ials:
    """Minimise the squared error of 1 for pairs that were had and of 0 for all, the latter times `weight`.

    Args:
        query_rows: [events] any number that tells queries apart.
        item_rows: [events] item rows; order and repeats do not matter.
        num_rows: V.
        num_factors: D.
        weight: of every pair of a query and an item, had or not.
        regularisation: of a factor, times (pairs it has + weight * pairs there are), as its own loss grows with these.
        num_sweeps: over queries, then items.
        generator: of the factors at the beginning.

    Raises:
        ValueError: weight or regularisation is not above 0.

    Source: Hu, Koren and Volinsky, ICDM 2008; weights and regularisation as Rendle et al., RecSys 2022, "Revisiting the
    performance of iALS on item recommendation benchmarks".
    """
    if weight <= 0 or regularisation <= 0:
        raise ValueError(f"weight and regularisation must be above 0; got {weight} and {regularisation}")
    matrix = interaction_matrix(query_rows=query_rows, item_rows=item_rows, num_rows=num_rows)
    had = np.flatnonzero(matrix.sum(axis=0))
    by_query, by_item = matrix[:, had].tocsr(), matrix[:, had].T.tocsr()
    items = (generator.normal(size=(len(had), num_factors)) * 0.1 / num_factors**0.5).astype(np.float32)
    for _ in range(num_sweeps):
        queries = solve_rows(
            by_query, items, weight=weight, regularisation=regularisation, num_columns=by_query.shape[1]
        )
        items = solve_rows(by_item, queries, weight=weight, regularisation=regularisation, num_columns=by_item.shape[1])
    item_factors = np.zeros((num_rows, num_factors), dtype=np.float32)
    item_factors[had] = items
    return Ials(item_factors=item_factors, weight=weight, regularisation=regularisation)


def solve_rows(
    pairs: csr_array[Any], others: FloatArray, *, weight: float, regularisation: float, num_columns: int
) -> FloatArray:
    """The best factor of each row while those of the other side stay: [rows, D].

    Args:
        pairs: [rows, columns] 1 where the pair was had.
        others: [columns, D].
        weight: of a pair, had or not.
        regularisation: as in `fit_ials`.
        num_columns: columns that count as pairs there are.
    """
    num_factors = others.shape[1]
    of_all = weight * (others.T @ others)  # [D, D]
    counts = np.diff(pairs.indptr)
    solved = np.zeros((pairs.shape[0], num_factors), dtype=np.float32)
    for start in range(0, len(solved), BLOCK):
        block = slice(start, start + BLOCK)
        systems = np.empty((len(counts[block]), num_factors, num_factors), dtype=np.float32)
        for place, row in enumerate(range(*block.indices(len(solved)))):
            own = others[pairs.indices[pairs.indptr[row] : pairs.indptr[row + 1]]]
            systems[place] = own.T @ own
        damping = regularisation * (counts[block] + weight * num_columns)
        systems += of_all + damping[:, None, None] * np.eye(num_factors, dtype=np.float32)
        totals = pairs[block] @ others  # [B, D]
        solved[block] = np.linalg.solve(systems, totals[:, :, None].astype(np.float32))[:, :, 0]
    return solved
