"""Cross-encoder rows scored without their padding, by onnxruntime.

Owns packing, the order of the work and who does it. A packed row keeps the position and the segment that each token
had, and padding never was attended to, so a row's score is what it was with its padding. Rows of one length make a
batch, each worker computes batches on one thread, and what comes back is in the order of what was asked.
"""

# Shapes: P rows, S tokens of a row with its padding, H width of the encoder, F dense features.

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from ranking.model import ClsEncoder, Ranker
from ranking.packed_graph import INPUTS, packed_graph

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

# Of a batch. On one core a token takes 202 us in batches of 256, 208 in 1,024, 223 in 2,048 and 262 in 32.
MOST_TOKENS = 512


class PackedEncoder:
    """CLS states of rows of tokens.

    Args:
        encoder: whose weights are taken as they are now.
        num_workers: threads, each with batches of its own; None: as many as this process has cores.
    """

    def __init__(self, encoder: ClsEncoder, *, num_workers: int | None = None) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers: expected at least 1, or null for one a core; got {num_workers}")
        self._pad, self._width = encoder.pad_token, encoder.sizes.width
        self._num_workers = num_workers or len(os.sched_getaffinity(0))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a run computes on the worker that calls it
        options.log_severity_level = 3
        # The fused operator is slower than the two that it replaces: 217 us a token rather than 200.
        self._session = onnxruntime.InferenceSession(
            packed_graph(encoder),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )

    def cls_states(self, tokens: NDArray[np.integer], segments: NDArray[np.integer]) -> FloatArray:
        """[P, S] token ids with padding anywhere behind the first, segments [S] or [P, S] -> [P, H].

        Raises:
            ValueError: a row begins with padding.
        """
        present = tokens != self._pad
        if not present[:, 0].all():
            row = int(np.flatnonzero(~present[:, 0])[0])
            raise ValueError(f"a row of tokens begins with [CLS]; row {row} begins with padding")
        segments = np.broadcast_to(segments, tokens.shape)
        states = np.empty((len(tokens), self._width), dtype=np.float32)

        def compute(rows: IntArray) -> None:
            packed = present[rows]
            of_row = (len(rows), -1)
            arrays = (tokens[rows][packed], np.nonzero(packed)[1], segments[rows][packed])
            feeds = {name: own.reshape(of_row).astype(np.int64) for name, own in zip(INPUTS, arrays, strict=True)}
            states[rows] = self._session.run(None, feeds)[0]

        with ThreadPoolExecutor(self._num_workers) as workers:
            list(workers.map(compute, _batches(present.sum(axis=1))))
        return states


def packed_scorer(
    model: Ranker, *, num_workers: int | None = None
) -> Callable[[NDArray[np.int32], NDArray[np.float32]], FloatArray]:
    """Scores [P] of tokens [P, S] and dense features [P, F] by a cross-encoder, its weights as they are now.

    Args:
        model: with a text encoder.
        num_workers: see `PackedEncoder`.
    """
    if model.encoder is None:
        raise ValueError("a ranker without a text encoder has no rows to pack")
    return partial(_scores, PackedEncoder(model.encoder, num_workers=num_workers), model)


@torch.inference_mode()
def _scores(encoder: PackedEncoder, model: Ranker, tokens: NDArray[np.int32], dense: NDArray[np.float32]) -> FloatArray:
    states = encoder.cls_states(tokens, model.segments.numpy())
    return cast(FloatArray, model.eval().scores(torch.from_numpy(states), torch.from_numpy(dense)).numpy())


def _batches(lengths: IntArray) -> Iterator[IntArray]:
    """Places of rows of one length, the longest first: what ends last is then short."""
    for length in np.unique(lengths)[::-1]:
        rows, most = np.flatnonzero(lengths == length), max(MOST_TOKENS // int(length), 1)
        yield from (rows[start : start + most] for start in range(0, len(rows), most))
