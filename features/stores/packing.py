"""A query's history as bytes, so that a store keeps it in one cell.

Owns the layout. Knows nothing of stores. Bytes, because Feast's file store never finished a join over array features.

Layout, version 2, little-endian, N events, oldest first, K distinct kinds of event among them:

    size    content
    2       magic b"QH"
    2       u16 version = 2
    4       u32 N
    2       u16 K
    2 K     u16 length of each kind's name in bytes
    ...     the names, UTF-8, one after the other, in the order of their code points
    8 N     i64 instant of each event, ms UTC
    8 N     f64 value of each event, bit for bit
    N       u8 place of each event's kind among the names; 2 N bytes as u16 where K is above 256
    2 N     u16 length of each item id in bytes
    ...     the item ids, UTF-8, one after the other

Each field is a column, so the packed form of any window of a longer history is slices of that history's columns:
`HistoryColumns` encodes a log once and cuts every window out of it. A window names its own kinds alone, so that equal
histories are equal bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.errors import FeaturesError

MAGIC = b"QH"
VERSION = 2
# A row of a store, not a log: at 100 bytes an event this is 1 MB.
MAX_EVENTS = 10_000
MAX_NAME_BYTES = 1_024
MAX_BYTE_CODES = 256
_HEADER = struct.Struct("<2sHI")
_KINDS = struct.Struct("<H")


@dataclass(frozen=True)
class History:
    """Events of one query, oldest first; the four lists have one length."""

    item_ids: list[str]
    events: list[str]
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
        events: Sequence[str],
        values: Sequence[float] | NDArray[np.float64],
        at_ms: Sequence[int] | NDArray[np.int64],
    ) -> None:
        """Encode E events.

        Raises:
            FeaturesError: the lengths differ, an instant is no 64-bit integer, or a name is too long or no UTF-8.
        """
        if not len(item_ids) == len(events) == len(values) == len(at_ms):
            raise FeaturesError(
                "a history needs as many item ids as events, values and instants; "
                f"got {len(item_ids)}, {len(events)}, {len(values)} and {len(at_ms)}"
            )
        try:
            ids = [item_id.encode() for item_id in item_ids]
            self._at_ms = np.asarray(at_ms, dtype="<i8").tobytes()
            self._values = np.asarray(values, dtype="<f8").tobytes()
            self._kinds = _Kinds(events)
        except (AttributeError, UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            raise FeaturesError(
                f"a history packs text as UTF-8, values as float64 and instants as int64; got {error}"
            ) from error
        sizes = _checked_sizes(ids)
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
        names, codes = self._kinds.cut(start, stop)
        return b"".join(
            (
                _HEADER.pack(MAGIC, VERSION, stop - start),
                names,
                self._at_ms[8 * start : 8 * stop],
                self._values[8 * start : 8 * stop],
                codes,
                self._sizes[2 * start : 2 * stop],
                self._ids[self._id_offsets[start] : self._id_offsets[stop]],
            )
        )


class _Kinds:
    """The kinds of E events, as names and codes of any window."""

    def __init__(self, events: Sequence[str]) -> None:
        names = sorted(set(events))
        self._names = [name.encode() for name in names]
        _checked_sizes(self._names)
        code_of = {name: code for code, name in enumerate(names)}
        self._codes = np.fromiter(map(code_of.__getitem__, events), dtype=np.uint32, count=len(events))
        # As bytes where a byte holds a code: what a window has is then found by memchr and cut by slicing.
        self._as_bytes = self._codes.astype(np.uint8).tobytes() if len(names) <= MAX_BYTE_CODES else None
        self._tables: dict[tuple[int, ...], tuple[bytes, bytes]] = {}

    def cut(self, start: int, stop: int) -> tuple[bytes, bytes]:
        """Header of the names that events start..stop-1 have, and their codes."""
        if self._as_bytes is None:
            present, codes = np.unique(self._codes[start:stop], return_inverse=True)
            width = "<u1" if len(present) <= MAX_BYTE_CODES else "<u2"
            return self._header(present.tolist()), codes.astype(width).tobytes()
        found = tuple(code for code in range(len(self._names)) if self._as_bytes.find(code, start, stop) >= 0)
        if found not in self._tables:
            places = bytearray(MAX_BYTE_CODES)
            for place, code in enumerate(found):
                places[code] = place
            self._tables[found] = self._header(found), bytes(places)
        header, translation = self._tables[found]
        return header, self._as_bytes[start:stop].translate(translation)

    def _header(self, codes: Sequence[int]) -> bytes:
        names = [self._names[code] for code in codes]
        sizes = np.array([len(name) for name in names], dtype="<u2")
        return _KINDS.pack(len(names)) + sizes.tobytes() + b"".join(names)


def _checked_sizes(names: Sequence[bytes]) -> NDArray[np.int64]:
    """Length of each name in bytes."""
    sizes = np.fromiter(map(len, names), dtype=np.int64, count=len(names))
    if sizes.size and int(sizes.max()) > MAX_NAME_BYTES:
        longest = names[int(sizes.argmax())].decode()
        raise FeaturesError(
            f"an item id or a kind of event takes at most {MAX_NAME_BYTES} bytes; {longest[:40]!r}... takes "
            f"{sizes.max()}"
        )
    return sizes


def pack_history(history: History) -> bytes:
    """One history as bytes; FeaturesError if it breaks a bound of the layout."""
    columns = HistoryColumns(
        item_ids=history.item_ids, events=history.events, values=history.values, at_ms=history.at_ms
    )
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
    kinds, at = _names(packed, at=_HEADER.size)
    code_bytes = 1 if len(kinds) <= MAX_BYTE_CODES else 2
    ids_at = at + (8 + 8 + code_bytes + 2) * count
    if count > MAX_EVENTS or len(packed) < ids_at:
        raise FeaturesError(
            f"a packed history of {count} events has at most {MAX_EVENTS} and takes at least {ids_at} bytes; "
            f"got {len(packed)} bytes"
        )
    codes = np.frombuffer(packed, dtype=f"<u{code_bytes}", count=count, offset=at + 16 * count)
    if count and int(codes.max()) >= len(kinds):
        raise FeaturesError(f"a packed history with {len(kinds)} kinds of event has no kind {codes.max()}")
    return History(
        item_ids=_ids(packed, at=ids_at, count=count),
        events=[kinds[code] for code in codes.tolist()],
        values=np.frombuffer(packed, dtype="<f8", count=count, offset=at + 8 * count).tolist(),
        at_ms=np.frombuffer(packed, dtype="<i8", count=count, offset=at).tolist(),
    )


def _names(packed: bytes, *, at: int) -> tuple[list[str], int]:
    """The names of the kinds, and where they end."""
    if len(packed) < at + _KINDS.size:
        raise FeaturesError(f"a packed history has at least {at + _KINDS.size} bytes; got {len(packed)}")
    (num_kinds,) = _KINDS.unpack_from(packed, at)
    sizes_at = at + _KINDS.size
    names_at = sizes_at + 2 * num_kinds
    if len(packed) < names_at:
        raise FeaturesError(f"a packed history with {num_kinds} kinds has at least {names_at} bytes; got {len(packed)}")
    sizes = np.frombuffer(packed, dtype="<u2", count=num_kinds, offset=sizes_at)
    return _cut(packed, at=names_at, sizes=sizes)


def _ids(packed: bytes, *, at: int, count: int) -> list[str]:
    """The item ids, which end a packed history; their lengths lie right before `at`."""
    sizes = np.frombuffer(packed, dtype="<u2", count=count, offset=at - 2 * count)
    item_ids, end = _cut(packed, at=at, sizes=sizes)
    if len(packed) != end:
        raise FeaturesError(f"a packed history whose item ids end at byte {end} has as many bytes; got {len(packed)}")
    return item_ids


def _cut(packed: bytes, *, at: int, sizes: NDArray[np.uint16]) -> tuple[list[str], int]:
    """Texts that lie one after the other from a byte on, and where they end."""
    if not len(sizes):
        return [], at
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    names = packed[at : at + ends[-1]]
    try:
        if names.isascii():  # a byte is a character then: one decoding instead of one a name
            text = names.decode("ascii")
            return [text[start:end] for start, end in pairwise([0, *ends])], at + ends[-1]
        return [names[start:end].decode() for start, end in pairwise([0, *ends])], at + ends[-1]
    except UnicodeDecodeError as error:
        raise FeaturesError(f"a packed history has its names in UTF-8; got {error}") from error
