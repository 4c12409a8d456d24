"""What a decomposed ranker reads of the catalogue beforehand: int8 states of every item's text.

Owns their file's making and how much an item may cost. Serving maps the file and knows nothing else of it.
"""

# Shapes: R rows of the item table, Si tokens of a candidate with its [SEP], U different texts, H and W widths.

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ranking.decomposed import DecomposedEncoder

logger = logging.getLogger(__name__)

MANY_ITEMS = 100_000
MOST_BYTES, MOST_BYTES_OF_MANY = 10_000, 2_000  # an item
ROWS_AT_ONCE = 4096


def check_budget(encoder: DecomposedEncoder, *, num_items: int, num_tokens: int) -> None:
    """Refuse a student whose states of an item would be too large.

    Raises:
        ValueError: they are; the message says how narrow the student must be.
    """
    most = MOST_BYTES if num_items <= MANY_ITEMS else MOST_BYTES_OF_MANY
    if num_tokens * encoder.width > most:
        raise ValueError(
            f"an item may cost {most} bytes of the release where there are {num_items}, and {num_tokens} tokens of "
            f"width {encoder.width} cost {num_tokens * encoder.width}: set ranker.student.form.width to at most "
            f"{most // num_tokens // 32 * 32}, or shorten features.text.candidate_tokens"
        )


@torch.inference_mode()
def write_item_states(encoder: DecomposedEncoder, path: Path, *, text_tokens: NDArray[np.int32], sep: int) -> None:
    """Read all items, fit the scale of int8 to them, and write [R, Si, W].

    Args:
        encoder: of the ranker; its `state_scale` is set.
        path: an npy file.
        text_tokens: [R, Si - 1] of the item table.
        sep: id of [SEP], which ends a candidate.
    """
    rows = np.concatenate([text_tokens, np.full((len(text_tokens), 1), sep, dtype=text_tokens.dtype)], axis=1)
    check_budget(encoder, num_items=len(rows), num_tokens=rows.shape[1])
    texts, text_of = np.unique(rows, axis=0, return_inverse=True)
    read = encoder.states_of(texts, of_context=False)
    projected = np.zeros((*texts.shape, encoder.width), dtype=np.float16)
    for start in range(0, len(texts), ROWS_AT_ONCE):
        some = torch.from_numpy(read[start : start + ROWS_AT_ONCE]).float()
        projected[start : start + ROWS_AT_ONCE] = encoder.project(some).half().numpy()
    largest = np.abs(projected).max(axis=(0, 1), keepdims=True).astype(np.float32)
    encoder.fit_state_scale(torch.from_numpy(largest))
    states = open_memmap(path, mode="w+", dtype=np.int8, shape=(*rows.shape, encoder.width))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        own = projected[text_of.ravel()[start : start + ROWS_AT_ONCE]]
        states[start : start + ROWS_AT_ONCE] = encoder.as_int8(torch.from_numpy(own).float()).numpy()
    states.flush()
    logger.info("%s: %d items of %d bytes", path, len(rows), rows.shape[1] * encoder.width)
