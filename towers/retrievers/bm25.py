"""BM25: items whose texts share words with what a query says, rare words counting for more.

Owns the weights, which are computed when the table is fitted: a query is then a sum over its words, and the table the
one that transitions are kept in (neighbours.py), with words in the place of a history's items. Words are the word
pieces of the spec's tokenizer, which a query's text is encoded by for the towers anyway: no second vocabulary, no word
unknown, and of a misspelt word some pieces are still right. numpy only; the table serves.

Sources: Robertson and Zaragoza, FnTIR 2009, "The probabilistic relevance framework: BM25 and beyond", with Lucene's
idf, ln(1 + (N - n + .5) / (n + .5)), which is never negative.
"""

# Shapes: N queries, R rows of the item table, S tokens of the longest text, P pairs of a word and an item that has it.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.vocab import FIRST, PADDING
from towers.retrievers.neighbours import NeighbourTable

IntArray = NDArray[np.integer[Any]]

# Of how often a word stands in a text, and of the text's length (docs/log.md, 2026-11-28).
SATURATION, LENGTH_SHARE = 0.9, 0.4


def fit_bm25(
    tokens: IntArray,
    *,
    pad: int,
    num_tokens: int,
    saturation: float = SATURATION,
    length_share: float = LENGTH_SHARE,
) -> NeighbourTable:
    """The weight of every word in every item's text, 0 where it does not stand there.

    Args:
        tokens: [R, S] token ids of each item's text; rows before FIRST are padding alone.
        pad: id of padding, which is no word.
        num_tokens: ids lie below it.
        saturation: k1; 0 counts a word once however often it stands in a text.
        length_share: b; 1 divides by a text's length wholly, 0 not at all.

    Raises:
        ValueError: an id is beyond num_tokens, or the items that pad and stand for the unknown have a text.
    """
    if tokens.max(initial=0) >= num_tokens or (tokens[:FIRST] != pad).any():
        raise ValueError(
            f"expected token ids below {num_tokens} and no text in the first {FIRST} rows; got ids up to "
            f"{tokens.max(initial=0)}: the texts were encoded by another tokenizer, or another item table's rows"
        )
    num_rows = len(tokens)
    rows, places = np.nonzero(tokens != pad)
    # A pair of word and item as one number, in the order of the table: by word, then by item.
    pairs, counts = np.unique(tokens[rows, places].astype(np.int64) * num_rows + rows, return_counts=True)
    words, items = pairs // num_rows, pairs % num_rows
    num_items_with = np.bincount(words, minlength=num_tokens)
    lengths = np.bincount(rows, minlength=num_rows)
    num_items = num_rows - FIRST
    rarity = np.log1p((num_items - num_items_with + 0.5) / (num_items_with + 0.5))
    mean_length = max(float(lengths[FIRST:].mean()) if num_items else 0.0, 1.0)
    discount = saturation * (1.0 - length_share + length_share * lengths / mean_length)  # [R]
    indptr = np.zeros(FIRST + num_tokens + 1, dtype=np.int64)
    np.cumsum(num_items_with, out=indptr[FIRST + 1 :])
    return NeighbourTable(
        indptr=indptr,
        indices=items.astype(np.int32),
        values=(rarity[words] * counts / (counts + discount[items])).astype(np.float32),
    )


def word_rows(tokens: IntArray, *, pad: int) -> NDArray[np.int64]:
    """Where a query's words stand in the table, as a history's items do; token ids and rows are of one shape."""
    return np.where(tokens != pad, tokens + FIRST, PADDING).astype(np.int64)
