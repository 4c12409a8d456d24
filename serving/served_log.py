"""Keeps what was served and the exact features it was served with: one JSON object a line, appended.

Owns the record, its file and the file's rotation. A line is there whole or not at all: a writer that was killed within
one leaves a torn end, which the next writer removes. The log never blocks an answer; when the disk is slower than the
traffic, lines are dropped and counted.
"""

import fcntl
import json
import logging
import math
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from features.transforms import QueryFeatures
from serving.answers import Answer
from serving.errors import ServingError
from serving.item_filter import ItemFilter
from serving.settings import ServedLogSettings

_log = logging.getLogger(__name__)

MAX_WAITING = 1000  # lines; at a few kB each a few MB


@dataclass(frozen=True)
class ServedRecord:
    """One answered request.

    Attributes:
        text: what the query said with the request; none if what the store knows counted.
        features: of this one query, raw, as the model got them; none if they could not be read.
        answer: the model's, with the delta that made it; none if the fallback answered.
        item_ids: what the caller got.
        spec_hash: of the FeatureSpec that the features are of.
        only: which items the request wanted; none: any.
    """

    request_id: str
    query_id: str
    served_at_ms: int
    requested_at_ms: int
    text: str | None
    source: Literal["model", "fallback"]
    fallback_reason: str | None
    spec_hash: str
    release_id: str
    features: QueryFeatures | None
    answer: Answer | None
    item_ids: tuple[str, ...]
    only: ItemFilter | None = None

    def to_line(self) -> bytes:
        """One line of JSON; numbers survive exactly, a missing one (nan) becomes null."""
        content = dict(vars(self))
        content["only"] = None if self.only is None else self.only.to_json()
        if self.features is not None:
            content["features"] = vars(self.features) | {"numbers": _with_nulls(self.features.numbers)}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=vars)
        return text.encode("utf-8", errors="replace") + b"\n"


class ServedLog:
    """Appends records from any thread; a thread of its own writes them.

    Args:
        settings: where, and how much is kept.

    Attributes:
        num_dropped: records lost because the disk was too slow or full.

    Raises:
        ServingError: another process writes this log.
    """

    def __init__(self, *, settings: ServedLogSettings) -> None:
        self.settings = settings
        self.num_dropped = 0
        self.settings.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(settings.path.with_name(settings.path.name + ".lock"))
        self._file = _open(settings.path)
        self._size = os.fstat(self._file).st_size
        self._waiting: queue.Queue[ServedRecord | None] = queue.Queue(maxsize=MAX_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="served-log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: ServedRecord) -> None:
        """Hand a record to the writer; it is in the file within moments, and after `close` surely."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._drop("the disk is slower than the traffic")

    def close(self) -> None:
        """Write what waits and let go of the file."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
            os.close(self._file)
            os.close(self._lock)

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                line = record.to_line()
                if self._size and self._size + len(line) > self.settings.max_bytes:
                    self._rotate()
                self._write(line)
            except (OSError, TypeError, ValueError) as error:  # the disk's, or a value that is not json's
                self._drop(str(error))

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._size)  # a full disk took half of it
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        os.close(self._file)
        try:
            path, kept = self.settings.path, self.settings.max_files - 1
            for age in range(kept, 0, -1):
                source = _aged(path, age - 1)
                if source.exists():
                    source.replace(_aged(path, age))
            if kept == 0:
                path.unlink()
        finally:
            self._file = _open(self.settings.path)
            self._size = os.fstat(self._file).st_size

    def _drop(self, reason: str) -> None:
        self.num_dropped += 1
        if self.num_dropped & (self.num_dropped - 1) == 0:  # 1, 2, 4, 8, ...: a full disk must not fill the log too
            _log.error("served log: %d records dropped so far: %s", self.num_dropped, reason)


def read_served_log(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a log and of its rotated files, oldest first; a torn end is left out."""
    aged = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda one: int(one.suffix[1:]), reverse=True)
    for file in [*aged, *([path] if path.exists() else [])]:
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def features_of(record: Mapping[str, Any]) -> QueryFeatures:
    """The features of a record as they were given to the model, to compute its inputs again.

    Raises:
        ServingError: the record was written by code with other features.
    """
    features = dict(record["features"])
    expected = [field.name for field in fields(QueryFeatures)]
    if sorted(features) != sorted(expected):
        raise ServingError(
            f"expected a record with the features {', '.join(expected)}; request {record['request_id']} has "
            f"{', '.join(features)}: read it with the version of this project that wrote it"
        )
    features["numbers"] = [[math.nan if number is None else number for number in row] for row in features["numbers"]]
    return QueryFeatures(**features)


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}") if age else path


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
    size = os.fstat(descriptor).st_size
    end = size
    while end:  # back to the last newline, a block at a time
        start = max(0, end - 65_536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return descriptor


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ServingError(f"{path} is held: another gateway writes this served log; give each its own") from None
    return descriptor


def _with_nulls(rows: list[list[float]]) -> list[list[float | None]]:
    return [[number if math.isfinite(number) else None for number in row] for row in rows]
