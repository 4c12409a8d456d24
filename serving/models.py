"""The models that a request runs through, behind one protocol.

Owns running them by onnxruntime in this process; calling them as Triton models is the model repository's business.

Shapes: N queries, L history length, D embedding width, Cq and Fq query categories and numbers, Sq tokens of a query's
text, C candidates, S tokens, F dense features.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Two instances on two cores: one thread each gave 299 requests/s and p99 36 ms, spinning default threads 138 and 71 ms.
SINGLE_THREAD = 1


class Models(Protocol):
    """The query tower and the ranker, wherever they run."""

    def query_tower(
        self,
        *,
        history_embeddings: FloatArray,
        history_mask: NDArray[np.bool_],
        query_categories: IntArray,
        query_numbers: FloatArray,
        query_tokens: IntArray,
    ) -> FloatArray:
        """[N, L, D], [N, L], [N, Cq], [N, Fq], [N, Sq] -> [N, D]."""
        ...

    def ranker(self, *, tokens: IntArray, dense: FloatArray) -> FloatArray:
        """[N, C, S], [N, C, F] -> [N, C]."""
        ...


def open_session(path: Path, *, num_threads: int = SINGLE_THREAD) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU that does not spin while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxModels:
    """Both models as onnxruntime sessions in this process."""

    def __init__(self, *, query_tower: Path, ranker: Path | None, num_threads: int = SINGLE_THREAD) -> None:
        self._query_tower = open_session(query_tower, num_threads=num_threads)
        self._ranker = None if ranker is None else open_session(ranker, num_threads=num_threads)

    def query_tower(
        self,
        *,
        history_embeddings: FloatArray,
        history_mask: NDArray[np.bool_],
        query_categories: IntArray,
        query_numbers: FloatArray,
        query_tokens: IntArray,
    ) -> FloatArray:
        """See `Models`."""
        return _run(
            self._query_tower,
            {
                "history_embeddings": history_embeddings,
                "history_mask": history_mask,
                "query_categories": query_categories,
                "query_numbers": query_numbers,
                "query_tokens": query_tokens,
            },
        )

    def ranker(self, *, tokens: IntArray, dense: FloatArray) -> FloatArray:
        """See `Models`; a model without text has no input of tokens."""
        if self._ranker is None:
            raise ValueError("these models were opened without a ranker")
        return _run(self._ranker, {"tokens": tokens, "dense": dense})


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[Any]]) -> FloatArray:
    wanted = {entry.name for entry in session.get_inputs()}
    output: FloatArray = session.run(None, {name: feeds[name] for name in feeds if name in wanted})[0]
    return output
