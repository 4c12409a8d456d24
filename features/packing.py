"""A query's history as bytes, so that a store keeps it in one cell.

Owns the layout. Knows nothing of stores. Bytes, because Feast's file store never finished a join over array features.

Layout, version 1, little-endian, N events, oldest first:

    offset  size   content
    0       2      magic b"QH"
    2       2      u16 version = 1
    4       4      u32 N
    8       8 N    i64 instant of each event, ms UTC
            8 N    f64 value of each event, bit for bit
            2 N    u16 length of each item id in bytes
            ...    the item ids, UTF-8, one after the other

Each field is a column, so the packed form of any window of a longer history is five slices of that history's columns:
`HistoryColumns` encodes a log once and cuts every window out of it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import FeaturesError

MAGIC = b"QH"
VERSION = 1
# A row of a store, not a log: at 100 bytes an event this is 1 MB.
MAX_EVENTS = 10_000
MAX_ID_BYTES = 1_024
_HEADER = struct.Struct("<2sHI")
_EVENT_BYTES = 8 + 8 + 2


@dataclass(frozen=True)
class History:
    """Events of one query, oldest first; the three lists have one length."""

    item_ids: list[str]
    values: list[float]
    at_ms: list[int]

    def __len__(self) -> int:
        return len(self.item_ids)


class HistoryColumns:
    """The encoded columns of E events, from which the packed form of any window is cut."""

    def __init__(
        self,
        *,
        item_ids: Sequence[str],
        values: Sequence[float] | NDArray[np.float64],
        at_ms: Sequence[int] | NDArray[np.int64],
    ) -> None:
        """Encode E events.

        Raises:
            FeaturesError: the lengths differ, an instant is no 64-bit integer, or an id is too long or no UTF-8.
        """
        if not len(item_ids) == len(values) == len(at_ms):
            raise FeaturesError(
                "a history needs as many item ids as values and instants; "
                f"got {len(item_ids)}, {len(values)} and {len(at_ms)}"
            )
        try:
            ids = [item_id.encode() for item_id in item_ids]
            self._at_ms = np.asarray(at_ms, dtype="<i8").tobytes()
            self._values = np.asarray(values, dtype="<f8").tobytes()
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            raise FeaturesError(
                f"a history packs text as UTF-8, values as float64 and instants as int64; got {error}"
            ) from error
        sizes = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        if sizes.size and int(sizes.max()) > MAX_ID_BYTES:
            longest = item_ids[int(sizes.argmax())]
            raise FeaturesError(
                f"an item id takes at most {MAX_ID_BYTES} bytes; {longest[:40]!r}... takes {sizes.max()}"
            )
        self._sizes = sizes.astype("<u2").tobytes()
        self._ids = b"".join(ids)
        self._id_offsets = [0, *np.cumsum(sizes).tolist()]

    def __len__(self) -> int:
        return len(self._id_offsets) - 1

    def pack(self, start: int, stop: int) -> bytes:
        """The packed history of events start..stop-1; a window outside the E events or above MAX_EVENTS raises."""
        if not 0 <= start <= stop <= len(self) or stop - start > MAX_EVENTS:
            raise FeaturesError(
                f"a window has at most {MAX_EVENTS} of the {len(self)} events; asked for events {start} to {stop}"
            )
        return b"".join(
            (
                _HEADER.pack(MAGIC, VERSION, stop - start),
                self._at_ms[8 * start : 8 * stop],
                self._values[8 * start : 8 * stop],
                self._sizes[2 * start : 2 * stop],
                self._ids[self._id_offsets[start] : self._id_offsets[stop]],
            )
        )


def pack_history(history: History) -> bytes:
    """One history as bytes; FeaturesError if it breaks a bound of the layout."""
    columns = HistoryColumns(item_ids=history.item_ids, values=history.values, at_ms=history.at_ms)
    return columns.pack(0, len(columns))


def unpack_history(packed: bytes) -> History:
    """The reverse of `pack_history`.

    Raises:
        FeaturesError: other magic, version or length than this module writes.
    """
    if len(packed) < _HEADER.size:
        raise FeaturesError(f"a packed history has at least {_HEADER.size} bytes; got {len(packed)}")
    magic, version, count = _HEADER.unpack_from(packed)
    if magic != MAGIC or version != VERSION:
        raise FeaturesError(
            f"expected a packed history that starts with {MAGIC!r} in version {VERSION}; got {magic!r} in version "
            f"{version}; write the store again with the code that reads it"
        )
    ids_at = _HEADER.size + _EVENT_BYTES * count
    if count > MAX_EVENTS or len(packed) < ids_at:
        raise FeaturesError(
            f"a packed history of {count} events has at most {MAX_EVENTS} and takes at least {ids_at} bytes; "
            f"got {len(packed)} bytes"
        )
    at_ms = np.frombuffer(packed, dtype="<i8", count=count, offset=_HEADER.size)
    values = np.frombuffer(packed, dtype="<f8", count=count, offset=_HEADER.size + 8 * count)
    sizes = np.frombuffer(packed, dtype="<u2", count=count, offset=_HEADER.size + 16 * count)
    ends = (ids_at + np.cumsum(sizes, dtype=np.int64)).tolist()
    if len(packed) != (ends[-1] if ends else ids_at):
        raise FeaturesError(
            f"a packed history whose item ids end at byte {ends[-1] if ends else ids_at} has as many bytes; "
            f"got {len(packed)}"
        )
    try:
        item_ids = (
            [packed[start:end].decode() for start, end in zip([ids_at, *ends[:-1]], ends, strict=True)] if ends else []
        )
    except UnicodeDecodeError as error:
        raise FeaturesError(f"a packed history has its item ids in UTF-8; got {error}") from error
    return History(item_ids=item_ids, values=values.tolist(), at_ms=at_ms.tolist())
