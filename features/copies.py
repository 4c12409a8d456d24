"""Rows of a table that repeat another's keys.

Owns finding them where they are few and the table is long. Knows nothing of what a key means.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Odd, and its bits are as if drawn, so that keys which differ rarely hash alike.
MIX = np.uint64(0x9E3779B97F4A7C15)

Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]


def encode(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column of strings with each of its values once, and where it stands: what is asked of values is asked once."""
    # One chunk: of many, each would bring a dictionary as long as the whole column's.
    return column.combine_chunks().dictionary_encode()


def codes(column: pa.ChunkedArray | pa.DictionaryArray) -> Codes:
    """An integer a row, the same where the values of finite numbers, instants or encoded strings are the same."""
    if pa.types.is_dictionary(column.type):
        column = column.indices
    if pa.types.is_floating(column.type):
        bits = pc.fill_null(pc.add(column, 0.0), 0.0).to_numpy().view(np.int64)  # plus 0.0 makes a zero of minus zero
    else:
        bits = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    numbers: Codes = bits
    return numbers


def are_distinct(rows: pa.ChunkedArray) -> bool:
    """Whether no integer of a column is missing or comes twice."""
    if rows.null_count:
        return False
    steps = np.diff(rows.to_numpy())
    return bool((steps > 0).all()) or pc.count_distinct(rows).as_py() == len(rows)


def later_copies(keys: Sequence[Codes], *, source_rows: NDArray[np.int64], among: Mask) -> Mask:
    """True where all keys stood together in an earlier source row; only rows in `among` are compared."""
    # Grouping 1.5 million rows by five keys takes 1 s, and copies are few: only rows whose hash is another's too are
    # compared key by key.
    hashes = np.zeros(len(among), dtype=np.uint64)
    for key in keys:
        hashes = (hashes ^ key.view(np.uint64)) * MIX
        hashes ^= hashes >> np.uint64(32)
    in_order = np.sort(hashes[among])
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    copies = np.zeros_like(among)
    if repeated.size:
        few = np.flatnonzero(among & np.isin(hashes, repeated))
        few = few[np.lexsort((source_rows[few], *(key[few] for key in keys)))]
        copies[few[1:]] = np.logical_and.reduce([key[few[1:]] == key[few[:-1]] for key in keys])
    return copies
