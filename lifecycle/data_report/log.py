"""The prepared events as arrays of codes, small enough to hold whole: an event costs 44 bytes.

Owns reading `events.parquet` for the data report. What is shown of it is measures.py's business.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.split import SPLITS


@dataclass(frozen=True)
class Coded:
    """A column of strings: `values[codes[n]]` is the value of row n."""

    codes: NDArray[np.int32]
    values: tuple[str, ...]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Coded":
        """Encode a column without nulls; values in alphabetical order."""
        encoded = column.unify_dictionaries().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):  # what combine_chunks gives where there is no chunk
            return cls(codes=np.zeros(0, dtype=np.int32), values=())
        raw = encoded.dictionary.to_pylist()
        by_name = sorted(range(len(raw)), key=raw.__getitem__)
        place = np.empty(len(raw), dtype=np.int32)
        place[by_name] = np.arange(len(raw))
        return cls(codes=place[encoded.indices.to_numpy()], values=tuple(raw[old] for old in by_name))

    def take(self, places: NDArray[np.int64]) -> "Coded":
        """The rows at `places`; the values stay."""
        return Coded(codes=self.codes[places], values=self.values)

    def __len__(self) -> int:
        """Distinct values."""
        return len(self.values)


@dataclass(frozen=True)
class Log:
    """E events grouped by query, in the order of its history within a query.

    Attributes:
        queries: and, like items, kinds and label_sources, one code an event.
        splits: [E] places in SPLITS.
        values: [E] and, like at_ms and relevance, one number an event.
    """

    queries: Coded
    items: Coded
    kinds: Coded
    label_sources: Coded
    splits: NDArray[np.int8]
    values: NDArray[np.float64]
    at_ms: NDArray[np.int64]
    relevance: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> "Log":
        """Read the events that prepare wrote."""
        strings = ("query_id", "item_id", "event", "label_source", "split")
        numbers = ("position", "value", "occurred_at_ms", "relevance")
        table = pq.read_table(path, columns=[*strings, *numbers], read_dictionary=list(strings))
        queries = Coded.of(table["query_id"])
        order = np.lexsort((table["position"].to_numpy(), queries.codes))
        split = Coded.of(table["split"]).take(order)
        place_of = np.array([SPLITS.index(name) for name in split.values], dtype=np.int8)
        values, at_ms, relevance = (table[name].to_numpy()[order] for name in numbers[1:])
        return cls(
            queries=queries.take(order),
            items=Coded.of(table["item_id"]).take(order),
            kinds=Coded.of(table["event"]).take(order),
            label_sources=Coded.of(table["label_source"]).take(order),
            splits=place_of[split.codes],
            values=values.astype(np.float64, copy=False),
            at_ms=at_ms.astype(np.int64, copy=False),
            relevance=relevance.astype(np.float32, copy=False),
        )

    def __len__(self) -> int:
        """Events."""
        return len(self.at_ms)

    @property
    def starts(self) -> NDArray[np.int64]:
        """[E] place of the first event of each event's query."""
        counts = np.bincount(self.queries.codes, minlength=len(self.queries))
        starts: NDArray[np.int64] = (np.cumsum(counts) - counts)[self.queries.codes]
        return starts

    def of_split(self, *names: str) -> NDArray[np.bool_]:
        """[E] true for the events of the named splits."""
        return np.isin(self.splits, [SPLITS.index(name) for name in names])
