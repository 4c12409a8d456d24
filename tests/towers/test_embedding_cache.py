import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from towers.embedding_cache import EmbeddingCache

KEYS = [b"a", b"b", b"c"]


class Counter:
    """Embeds place n as [n, n] and remembers what it was asked; breaks when a place is in `bad`."""

    def __init__(self, *, bad: int | None = None) -> None:
        self.asked: list[int] = []
        self.bad = bad

    def __call__(self, places: Sequence[int]) -> NDArray[np.float32]:
        if self.bad in places:
            raise KeyboardInterrupt
        self.asked.extend(places)
        return np.repeat(np.array(places, dtype=np.float32)[:, None], 2, axis=1)


def fill(path: Path, keys: Sequence[bytes], embed: Counter) -> NDArray[np.float32]:
    return EmbeddingCache(path).fill(keys, embed, batch_size=1, describe="embeddings")


def test_what_was_embedded_is_not_embedded_again(tmp_path):
    fill(tmp_path / "cache.sqlite", KEYS[:2], Counter())
    again = Counter()
    embeddings = fill(tmp_path / "cache.sqlite", KEYS, again)
    assert again.asked == [2]
    assert embeddings.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "cache.sqlite", KEYS, Counter(bad=2))
    again = Counter()
    assert fill(tmp_path / "cache.sqlite", KEYS, again).shape == (3, 2)
    assert again.asked == [2]


def test_a_damaged_file_is_put_aside_and_begun_anew(tmp_path, caplog):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        assert fill(path, KEYS, Counter()).shape == (3, 2)
    assert "put aside" in caplog.text
    assert (tmp_path / "cache.sqlite.damaged").read_bytes().startswith(b"no database")


def test_more_keys_than_a_statement_takes_are_found(tmp_path):
    keys = [n.to_bytes(4, "big") for n in range(1200)]
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    first = cache.fill(keys, Counter(), batch_size=500, describe="embeddings")
    again = Counter()
    np.testing.assert_array_equal(cache.fill(keys, again, batch_size=500, describe="embeddings"), first)
    assert again.asked == []
