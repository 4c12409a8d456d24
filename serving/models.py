"""The models that a request runs through, behind one protocol.

Owns running them by onnxruntime in this process; calling them as Triton models is the model repository's business.

Shapes: N queries, D embedding width, C candidates.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from features.tower_inputs import QueryTowerInputs
from features.transforms import RankerInputs

FloatArray = NDArray[np.float32]
TowerArrays = QueryTowerInputs[NDArray[Any]]

# Two instances on two cores: one thread each gave 299 requests/s and p99 36 ms, spinning default threads 138 and 71 ms.
SINGLE_THREAD = 1


class Models(Protocol):
    """The query tower and the ranker, wherever they run."""

    def query_tower(self, inputs: TowerArrays) -> FloatArray:
        """Query embeddings [N, D]; a model has no input for what its queries do not have, such as a text.

        Where they have one, the text's own embedding [N, E] follows: the encoder is in the model, and one pass gives
        both.
        """
        ...

    def ranker(self, inputs: RankerInputs) -> FloatArray:
        """Scores [N, C]; a model has no input for what it does not read, such as tokens where it reads no text."""
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

    def query_tower(self, inputs: TowerArrays) -> FloatArray:
        """See `Models`."""
        return _run(self._query_tower, inputs.by_name)

    def ranker(self, inputs: RankerInputs) -> FloatArray:
        """See `Models`."""
        if self._ranker is None:
            raise ValueError("these models were opened without a ranker")
        return _run(self._ranker, inputs.by_name)


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[Any]]) -> FloatArray:
    wanted = {entry.name for entry in session.get_inputs()}
    output: FloatArray = session.run(None, {name: feeds[name] for name in feeds if name in wanted})[0]
    return output
