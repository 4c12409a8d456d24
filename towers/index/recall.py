"""How much of exact search an index finds, on queries that it was not built for.

Owns the measure, its lower bound, and the gate that a built index has to pass. Ties count: any item whose true product
is as high as the k-th one's is right.
"""

# Shapes: Q queries, P items, D width of the embeddings.

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from towers.errors import RecallTooLow, UnfitPieces
from towers.index.build import FlatBuilder
from towers.index.norms import norms
from towers.index.search import NO_RESULT, ItemIndex

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

ONE_SIDED = 1.64  # standard errors: 95 of 100 samples have their mean so much too high at most


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries with what exact search over the items answers.

    Attributes:
        items: [P, D].
        rows: [P] ItemRow.
        queries: [Q, D].
        k: length of the lists; the number of items where that is less.
    """

    items: FloatArray
    rows: IntArray
    queries: FloatArray
    k: int

    def __post_init__(self) -> None:
        """Refuse what nothing can be measured on."""
        if not len(self.queries):
            raise UnfitPieces("recall is measured on queries; got none")
        object.__setattr__(self, "k", min(self.k, len(self.rows)))

    @cached_property
    def exact(self) -> ItemIndex:
        """Exact search over the items."""
        return FlatBuilder().build(self.items, self.rows)

    @cached_property
    def _lowest(self) -> FloatArray:
        """[Q] the k-th highest product."""
        return self.exact.search(self.queries, k=self.k).scores[:, -1]

    @cached_property
    def _places(self) -> IntArray:
        places = np.full(int(self.rows.max()) + 1, -1)
        places[self.rows] = np.arange(len(self.rows))
        return places

    def recalls(self, index: ItemIndex) -> NDArray[np.float64]:
        """[Q] recall@k of an index over the same items."""
        return self.shares(index.search(self.queries, k=self.k).rows)

    def shares(self, found: IntArray) -> NDArray[np.float64]:
        """[Q] recall@k of ItemRows [Q, k] that were found, whichever way; NO_RESULT where none was."""
        items = self.items[self._places[found]]  # [Q, k, D]
        products = np.einsum("qkd,qd->qk", items, self.queries)
        rounding = 1e-6 * np.linalg.norm(items, axis=2) * norms(self.queries)[:, None]
        right = (found != NO_RESULT) & (products >= self._lowest[:, None] - rounding)
        shares: NDArray[np.float64] = right.mean(axis=1)
        return shares


def lower_bound(recalls: NDArray[np.float64], *, k: int) -> float:
    """Of the mean of [Q] recalls@k, one-sided, 95 %; below 1 whatever was seen, for a sample proves no certainty."""
    num = len(recalls)
    error = recalls.std() / np.sqrt(max(num - 1, 1))
    return float(recalls.mean() - ONE_SIDED * max(error, 1 / (num * k)))


@dataclass(frozen=True)
class RecallGate:
    """What a built index must find of exact search.

    Attributes:
        k: length of the lists.
        target: recall@k, the mean over held-out queries.
        max_queries: spread over these, where there are more.
    """

    k: int = 100
    target: float = 0.95
    max_queries: int = 500

    def __post_init__(self) -> None:
        """Refuse a target that is no share."""
        if not 0 <= self.target <= 1 or self.k < 1 or self.max_queries < 1:
            raise UnfitPieces(f"expected a target between 0 and 1, k and max_queries of at least 1; got {self}")

    def passed(self, index: ItemIndex, held_out: HeldOut) -> float:
        """The recall.

        Raises:
            RecallTooLow: it is below the target.
        """
        recalls = held_out.recalls(index)
        recall = float(recalls.mean())
        if recall < self.target:
            raise RecallTooLow(
                f"the index finds {recall:.4f} of the true first {held_out.k} of {len(recalls)} held-out queries; "
                f"expected {self.target:g} at least. Raise its probes, beam or refine, have them chosen "
                "(scripts/tune_index.py), take index=flat, or lower index_recall.target"
            )
        return recall
