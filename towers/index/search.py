"""Search over item embeddings.

Owns reading an index and answering from it. Knows nothing of queries, features or torch. Faiss holds ItemRows as its
ids, so what a search returns addresses the item table directly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

NO_RESULT = 0  # the padding row: an index with fewer than k items fills up with it


@dataclass(frozen=True)
class SearchResult:
    """The best items of N queries, best first.

    Attributes:
        rows: [N, k] ItemRow; NO_RESULT where the index has fewer than k items.
        scores: [N, k] inner product; -inf where there is no result.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class ItemIndex:
    """A Faiss index over item embeddings whose ids are ItemRows."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def read(cls, path: Path) -> "ItemIndex":
        """Read an index; a missing, truncated or foreign file raises a ValueError that names it."""
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            raise ValueError(f"{path} is not a readable Faiss index; build it again: scripts/build_index.py") from error

    def write(self, path: Path) -> None:
        """Write the index; readers never see a half-written one."""
        partial = path.with_suffix(".partial")
        faiss.write_index(self._index, str(partial))
        partial.replace(path)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return int(self._index.d)

    def with_last(self, values: NDArray[np.float32]) -> "ItemIndex":
        """A copy in which the last coordinate of each embedding is another one; this index stays as it is.

        What the structure was built on is the former coordinate. Exact search is exact with either; a graph keeps its
        links, and so reaches items whose coordinate changed much less surely until it is built again.

        Args:
            values: [R] by ItemRow.
        """
        index: Any = faiss.clone_index(self._index)
        holder: Any = faiss.downcast_index(index.index)
        flat: Any = faiss.downcast_index(holder.storage) if hasattr(holder, "storage") else holder
        stored = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        stored[:, -1] = values[faiss.vector_to_array(index.id_map)]
        return ItemIndex(index)

    def search(self, query_embeddings: NDArray[np.float32], *, k: int) -> SearchResult:
        """The k items with the largest inner product for each of N queries [N, D]."""
        if query_embeddings.ndim != 2 or query_embeddings.shape[1] != self.width:
            raise ValueError(f"expected query embeddings [N, {self.width}]; got {query_embeddings.shape}")
        if k < 1:
            raise ValueError(f"expected k of at least 1; got {k}")
        if not np.isfinite(query_embeddings).all():
            raise ValueError("query embeddings hold NaN or infinity; check the query tower's inputs")
        scores, rows = self._index.search(np.ascontiguousarray(query_embeddings, dtype=np.float32), k)
        missing = rows < 0
        return SearchResult(rows=np.where(missing, NO_RESULT, rows), scores=np.where(missing, -np.inf, scores))
