"""Hidden states of texts on disk by content, for as long as a training lasts.

Owns one file without a name, which is gone when it is closed or the process is killed. Knows nothing of what makes a
state. A text of 45 tokens in 384 floats takes 70 kB: too much to hold a large catalogue's in memory.

Shapes: S tokens of a text, E width of a state.
"""

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class StateFile:
    """Arrays [S, E] by key; S is each text's own.

    Args:
        directory: where there is room.
        width: E.
    """

    def __init__(self, directory: Path, *, width: int) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)
        weakref.finalize(self, self._file.close)
        self.width = width
        self._spans: dict[bytes, tuple[int, int]] = {}  # first byte and number of bytes
        self._end = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, key: bytes, states: NDArray[np.float32]) -> None:
        """Keep [S, E] under a new key."""
        content = np.ascontiguousarray(states, dtype=np.float32).tobytes()
        self._file.seek(self._end)
        self._file.write(content)
        self._spans[key] = (self._end, len(content))
        self._end += len(content)

    def __getitem__(self, key: bytes) -> NDArray[np.float32]:
        """[S, E].

        Raises:
            KeyError: nothing was added under this key.
        """
        start, length = self._spans[key]
        self._file.seek(start)
        return np.frombuffer(bytearray(self._file.read(length)), dtype=np.float32).reshape(-1, self.width)
