"""Search over item embeddings.

Owns what an index is and how it answers: parts (part.py), whose answers are merged. Knows nothing of queries, features
or torch. What a search returns are ItemRows, so it addresses the item table directly.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitPieces
from towers.index.effort import Effort
from towers.index.index_file import read_parts, write_parts
from towers.index.part import Part, best_first

NO_RESULT = 0  # the padding row: a list of fewer than k items is filled up with it


@dataclass(frozen=True)
class SearchResult:
    """The best items of N queries, best first.

    Attributes:
        rows: [N, k] ItemRow; NO_RESULT where no more were found: the index has fewer than k items, or lists that were
            read, or what a graph reaches, have.
        scores: [N, k] inner product; -inf where there is no result.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Item embeddings of one width, each in one of the parts; they come from builders (build.py).

    Scores are inner products with the embeddings to float32's rounding, whichever part found them. Where only rounded
    embeddings are kept (FlatBuilder's `half`, IvfSq8Builder without `refine`) they are products with those.
    """

    parts: tuple[Part, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an index.

        Raises:
            UnreadableIndex: it is missing, truncated or of another kind.
            GpuMissing: it is to be searched on a GPU, and there is none.
            ScannMissing: it is ScaNN's, which is not installed.
        """
        return cls(read_parts(path))

    def write(self, path: Path) -> None:
        """Write the index; readers never see a half-written one.

        Raises:
            UnfitPieces: a filter is upon it, or items were deleted from it.
        """
        if any(part.passing is not None for part in self.parts):
            raise UnfitPieces("an index is written whole; got one with a filter or deleted items: merge it first")
        write_parts(path, self.parts)

    def __len__(self) -> int:
        """Of items that may be found."""
        return sum(part.num for part in self.parts)

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self.parts[0].width

    @property
    def is_exact(self) -> bool:
        """Whether a search reads every embedding as it is."""
        return all(part.is_exact for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def num_lists(self) -> int:
        """Most inverted lists of a part; 0: none has any."""
        return max(part.structure.num_lists for part in self.parts)

    @property
    def effort(self) -> Effort:
        """How much a search reads; a part that is searched exactly has no settings."""
        return next((part.effort for part in self.parts if part.effort.names), Effort())

    def with_effort(self, effort: Effort) -> Self:
        """The same index, searched with another effort; nothing is copied.

        Raises:
            UnfitPieces: it has other settings than this index.
        """
        if effort.names != self.effort.names:
            raise UnfitPieces(f"this index is searched by {self.effort}; got {effort}: give the same settings")
        parts = (replace(part, effort=effort) if part.effort.names else part for part in self.parts)
        return replace(self, parts=tuple(parts))

    def with_last(self, values: NDArray[np.float32]) -> Self:
        """A copy in which the last coordinate of each embedding is another one; this index stays as it is.

        What a structure was built on is the former coordinate. Exact search is exact with either. Inverted lists and
        codes are made again by the former centroids, ranges and codebooks; a graph keeps its links, and so reaches
        items whose coordinate changed much less surely until it is built again.

        Args:
            values: [R] by ItemRow; rows that it does not reach keep their coordinate.
        """
        return replace(self, parts=tuple(part.with_last(values) for part in self.parts))

    def only(self, allowed: NDArray[np.bool_]) -> Self:
        """The items that pass a filter; keep what this returns where the filter comes again.

        Of a part of which half or less passes a flat copy is made: memory of these embeddings, and exact search. Else
        nothing is copied but a bit an item: a search reads lists until enough of what passes stands in them, and a
        graph's embeddings one by one unless nearly all pass.

        Args:
            allowed: [R] by ItemRow, R beyond every row of this index.

        Raises:
            ValueError: it is of another type, or too short.
        """
        check_filter(allowed, self.parts)
        return replace(self, parts=tuple(part.only(allowed[part.rows]) for part in self.parts))

    def search(
        self, query_embeddings: NDArray[np.float32], *, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> SearchResult:
        """The k items with the largest inner product for each of N queries [N, D].

        Args:
            query_embeddings: [N, D].
            k: length of a list.
            allowed: [R] by ItemRow, what may be found; see `only`.

        Raises:
            ValueError: a shape or type is another, or an embedding is no number.
        """
        if allowed is not None:
            return self.only(allowed).search(query_embeddings, k=k)
        if query_embeddings.ndim != 2 or query_embeddings.shape[1] != self.width:
            raise ValueError(f"expected query embeddings [N, {self.width}]; got {query_embeddings.shape}")
        if k < 1:
            raise ValueError(f"expected k of at least 1; got {k}")
        if not np.isfinite(query_embeddings).all():
            raise ValueError("query embeddings hold NaN or infinity; check the query tower's inputs")
        queries = np.ascontiguousarray(query_embeddings, dtype=np.float32)
        found = [part.find(queries, k=k) for part in self.parts]
        scores, rows = (
            found[0] if len(found) == 1 else (np.concatenate(own, axis=1) for own in zip(*found, strict=True))
        )
        if len(found) > 1:
            scores, rows = best_first(np.where(rows < 0, -np.inf, scores), rows, k=k)
        if scores.shape[1] < k:
            lacking = ((0, 0), (0, k - scores.shape[1]))
            scores, rows = np.pad(scores, lacking), np.pad(rows, lacking, constant_values=-1)
        if rows[:, -1].min(initial=0) < 0:  # seldom, and two more passes cost as much as a short search
            missing = rows < 0
            rows, scores = np.where(missing, NO_RESULT, rows), np.where(missing, -np.inf, scores)
        return SearchResult(rows=rows, scores=scores)


def check_filter(allowed: NDArray[np.bool_], parts: tuple[Part, ...]) -> None:
    """Refuse what is no filter of these parts.

    Raises:
        ValueError: it is of another type, or too short.
    """
    longest = max((part.last_row for part in parts), default=0)
    if allowed.dtype != np.bool_ or allowed.ndim != 1 or len(allowed) <= longest:
        raise ValueError(
            f"expected a filter of bool [R] by ItemRow, R at least {longest + 1}; "
            f"got {allowed.dtype} {list(allowed.shape)}"
        )
