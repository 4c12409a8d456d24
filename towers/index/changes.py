"""Changes of an index's items: added, updated, deleted, all or none of them.

Owns what changes may be by themselves, and how they lie in a log. Whether they fit an index says snapshot.py.
"""

# Shapes: A items added or updated, M deleted, D width of the embeddings.

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from towers.errors import UnfitChange
from towers.index.norms import LARGEST, is_bounded
from towers.index.search import NO_RESULT

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_SIZES = struct.Struct("<IIII")  # A, D, M, bytes of notes


@dataclass(frozen=True, eq=False)
class Changes:
    """What is to become of some items.

    Attributes:
        rows: [A] ItemRow of items that are added, or updated where the index has them.
        embeddings: [A, D] theirs.
        deleted: [M] ItemRow of items that go.
        notes: what whoever serves the items wants to know of them besides; the index hands it on and does not read it.
    """

    rows: IntArray
    embeddings: FloatArray
    deleted: IntArray
    notes: bytes = b""

    @classmethod
    def of(
        cls,
        rows: IntArray | None = None,
        embeddings: FloatArray | None = None,
        *,
        deleted: IntArray | None = None,
        notes: bytes = b"",
    ) -> Self:
        """Checked changes; what is left out is empty.

        Raises:
            UnfitChange: a shape is another, a row stands twice or is none, or an embedding is no number or beyond
                LARGEST.
        """
        added, gone = (_rows_of(own) for own in (rows, deleted))
        vectors = np.array(np.empty((0, 0)) if embeddings is None else embeddings, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(added):
            raise UnfitChange(f"expected an embedding for each of {len(added)} rows; got {list(vectors.shape)}")
        if not np.isfinite(vectors).all():
            raise UnfitChange("embeddings of changed items hold NaN or infinity; check what embeds them")
        if not is_bounded(vectors):
            raise UnfitChange(f"embeddings of changed items go beyond {LARGEST:g}; check what embeds them")
        both = np.concatenate([added, gone])
        if len(np.unique(both)) != len(both):
            raise UnfitChange("an item stands twice among what is added, updated and deleted: give each once")
        return cls(added, vectors, gone, notes)

    def to_bytes(self) -> bytes:
        """For a log."""
        sizes = _SIZES.pack(*self.embeddings.shape, len(self.deleted), len(self.notes))
        arrays = (self.rows.astype("<i8"), self.deleted.astype("<i8"), self.embeddings.astype("<f4"))
        return sizes + b"".join(array.tobytes() for array in arrays) + self.notes

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The reverse of `to_bytes`.

        Raises:
            ValueError: it is of another length.
        """
        num, width, num_deleted, num_notes = _SIZES.unpack_from(content)
        numbers, start = num + num_deleted, _SIZES.size
        end = start + 8 * numbers + 4 * num * width
        if len(content) != end + num_notes:
            raise ValueError(
                f"{len(content)} bytes for {num} items of width {width}, {num_deleted} deleted and {num_notes} of notes"
            )
        rows = np.frombuffer(content, "<i8", numbers, start).astype(np.int64)
        embeddings = np.frombuffer(content, "<f4", num * width, start + 8 * numbers).astype(np.float32)
        return cls(rows[:num], embeddings.reshape(num, width), rows[num:], content[end:])


def _rows_of(rows: IntArray | None) -> IntArray:
    """As int64 [M].

    Raises:
        UnfitChange: they are no rows of items.
    """
    given = np.array([] if rows is None else rows)
    if given.ndim != 1 or (len(given) and not np.issubdtype(given.dtype, np.integer)):
        raise UnfitChange(f"expected whole ItemRows [M]; got {given.dtype} {list(given.shape)}")
    if (given <= NO_RESULT).any():
        raise UnfitChange(f"expected ItemRows above {NO_RESULT}, which says that there is no item; got {given.min()}")
    return given.astype(np.int64)
