"""Text embeddings on disk by content: a run that was killed, or a catalogue that grew, embeds what is new alone.

Owns one sqlite file that many runs share. Knows nothing of what makes an embedding.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

logger = logging.getLogger(__name__)

KEYS_A_READ = 500  # sqlite takes a bounded number of values in one statement


class EmbeddingCache:
    """Embeddings by key; a file that is no such cache is put aside and begun anew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def fill(
        self,
        keys: Sequence[bytes],
        embed: Callable[[Sequence[int]], NDArray[np.float32]],
        *,
        batch_size: int,
        describe: str,
    ) -> NDArray[np.float32]:
        """Embeddings [N, E] of N distinct keys; what is missing is made batch by batch and kept at once.

        Args:
            keys: [N].
            embed: given places among the keys, returns their embeddings [places, E].
            batch_size: places that `embed` is given at once.
            describe: of the progress bar.
        """
        with closing(self._open()) as connection:
            known = _read(connection, keys)
            missing = [place for place, key in enumerate(keys) if key not in known]
            logger.info("%s: %d of %d are in %s", describe, len(keys) - len(missing), len(keys), self.path)
            for start in tqdm(range(0, len(missing), batch_size), desc=describe, unit="batch"):
                places = missing[start : start + batch_size]
                fresh = {keys[place]: row for place, row in zip(places, embed(places), strict=True)}
                rows = [(key, row.astype("<f4").tobytes()) for key, row in fresh.items()]
                connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)
                connection.commit()
                known |= fresh
        return np.stack([known[key] for key in keys])

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            aside = self.path.with_name(self.path.name + ".damaged")
            logger.warning("%s is no embedding cache (%s); it is put aside as %s", self.path, error, aside)
            self.path.replace(aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60.0)
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, embedding BLOB) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
    known: dict[bytes, NDArray[np.float32]] = {}
    for start in range(0, len(keys), KEYS_A_READ):
        some = keys[start : start + KEYS_A_READ]
        marks = ",".join("?" * len(some))
        found = connection.execute(f"SELECT key, embedding FROM embeddings WHERE key IN ({marks})", some)
        known |= {key: np.frombuffer(embedding, dtype="<f4") for key, embedding in found}
    return known
