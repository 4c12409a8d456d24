"""The log of changes: one file that every process which serves an index appends to and follows.

Owns the file. A change is acknowledged when it is written and fsynced; numbers are consecutive, so whoever has seen one
knows what is missing. What a crash left half-written at the end was acknowledged to nobody: readers wait before it, and
the next writer cuts it off. Damage before the end is an error. Locks (flock) reach as far as the file system does: the
processes of one machine.

    file    header  magic, number before the first record, width, CRC-32 of these
            record* marker, number, length and CRC-32 of the content, CRC-32 of these; content (changes.py)
"""

import fcntl
import os
import struct
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from towers.errors import UnreadableLog
from towers.index.changes import Changes

MAGIC = b"twostage changes"
MARKER = b"chng"
_HEADER = struct.Struct("<16sQI")
_RECORD = struct.Struct("<4sQII")
_SUM = struct.Struct("<I")
_HEADER_SIZE, _RECORD_SIZE = _HEADER.size + _SUM.size, _RECORD.size + _SUM.size


class ChangeLog:
    """A place in a log, which reading and appending move on. Each thread that uses one holds a lock of its own on it.

    Args:
        path: of the file, made where there is none.
        width: of the embeddings; None: of any, of a log that is there.
        seen: number of the last change that is known; a log that is made begins after it.

    Raises:
        UnreadableLog: the file is no log, of another width, damaged, or does not reach from or to `seen`.
    """

    def __init__(self, path: Path, *, width: int | None, seen: int = 0) -> None:
        self.path = path
        if width is not None and not path.exists():
            _create(path, after=seen, width=width)
        self._file = path.open("r+b", buffering=0)
        self.close = weakref.finalize(self, self._file.close)
        head = self._file.read(_HEADER_SIZE)
        if len(head) < _HEADER_SIZE or head[: len(MAGIC)] != MAGIC or not _sums_up(head):
            raise UnreadableLog(f"{path} is no log of changes: give another path, or bring the file back")
        _, first, own_width = _HEADER.unpack_from(head)
        if width not in (None, own_width):
            raise UnreadableLog(f"{path} is of embeddings of width {own_width}, the index of {width}: give another log")
        self.seen: int = first
        self._end = _HEADER_SIZE
        while self.seen < seen and self._next() is not None:
            pass
        if self.seen != seen:
            raise UnreadableLog(
                f"{path} has changes from {first + 1} to {self.seen}, and those after {seen} are asked for: "
                "take the index and the log of one release"
            )

    def new(self) -> Iterator[Changes]:
        """Those beyond `seen`, in their order, which become seen one by one: as many as there are now.

        What others append meanwhile is left for the next time; who followed it would never end behind a fast writer.

        Raises:
            UnreadableLog: the file is damaged.
        """
        end = os.fstat(self._file.fileno()).st_size
        while self._end < end and (changes := self._next()) is not None:
            yield changes

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Alone among all processes; read what is new before appending."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def append(self, changes: Changes) -> int:
        """Write durably, within `appending` and after `new` is exhausted; returns the number.

        Raises:
            OSError: it could not be written, and was not, or it is unknown whether it was (the disk failed).
        """
        content = changes.to_bytes()
        head = _RECORD.pack(MARKER, self.seen + 1, len(content), zlib.crc32(content))
        record = memoryview(_summed(head) + content)
        try:
            os.ftruncate(self._file.fileno(), self._end)  # what a crash left
            written = 0
            while written < len(record):
                written += os.pwrite(self._file.fileno(), record[written:], self._end + written)
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), self._end)
            raise
        self.seen, self._end = self.seen + 1, self._end + len(record)
        return self.seen

    def _next(self) -> Changes | None:
        content = self._content_at(self._end, self.seen + 1)
        # One who reads while it is written may see the beginning of a record late and what follows it early, so an end
        # that is not the end is looked at twice.
        if content is None and self._goes_on():
            content = self._content_at(self._end, self.seen + 1)
            if content is None:
                raise UnreadableLog(
                    f"{self.path} is damaged at byte {self._end}, in change {self.seen + 1}, and goes on after it: "
                    "bring the file back, or build the index anew and begin another log"
                )
        if content is None:
            return None
        changes = Changes.from_bytes(content)
        self.seen, self._end = self.seen + 1, self._end + _RECORD_SIZE + len(content)
        return changes

    def _content_at(self, at: int, number: int) -> bytes | None:
        """Of a whole record of this number; None: there is none."""
        head = os.pread(self._file.fileno(), _RECORD_SIZE, at)
        if len(head) < _RECORD_SIZE or not _sums_up(head):
            return None
        marker, own, length, checksum = _RECORD.unpack_from(head)
        content = os.pread(self._file.fileno(), length, at + _RECORD_SIZE)
        is_whole = len(content) == length and zlib.crc32(content) == checksum
        return content if is_whole and (marker, own) == (MARKER, number) else None

    def _goes_on(self) -> bool:
        """Whether the head of a later record follows, so that what stands here is not the end."""
        size = os.fstat(self._file.fileno()).st_size
        rest = os.pread(self._file.fileno(), size - self._end, self._end) if size > self._end else b""
        at = rest.find(MARKER)
        while at >= 0:
            head = rest[at : at + _RECORD_SIZE]
            if len(head) == _RECORD_SIZE and _sums_up(head) and _RECORD.unpack_from(head)[1] > self.seen + 1:
                return True
            at = rest.find(MARKER, at + 1)
        return False


def _summed(head: bytes) -> bytes:
    return head + _SUM.pack(zlib.crc32(head))


def _sums_up(head: bytes) -> bool:
    return _summed(head[: -_SUM.size]) == head


def _create(path: Path, *, after: int, width: int) -> None:
    """Make an empty log, whole or not at all; where another process was first, its log stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:
        file.write(_summed(_HEADER.pack(MAGIC, after, width)))
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
