"""The query tower and the ranker as Triton models, called from inside the model `recommend`.

Owns those two calls, each for a whole batch. Loaded inside Triton alone, and handed its API, so that this module can be
imported anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.transforms import RankerInputs
from serving.models import TowerArrays

FloatArray = NDArray[np.float32]


class BlsModels:
    """`models.Models` by business logic scripting: Triton calling Triton in one process.

    Args:
        triton_api: the module `triton_python_backend_utils`.
        inputs: names of the tensors that each model takes; one without text has no tokens.
    """

    def __init__(self, *, triton_api: Any, inputs: Mapping[str, Sequence[str]]) -> None:
        self._api = triton_api
        self._inputs = inputs

    def query_tower(self, inputs: TowerArrays) -> FloatArray:
        """See `models.Models`."""
        return self._call("query_tower", output="query_embedding", given=inputs.by_name)

    def ranker(self, inputs: RankerInputs) -> FloatArray:
        """See `models.Models`."""
        return self._call("ranker", output="scores", given=inputs.by_name)

    def _call(self, model: str, *, output: str, given: Mapping[str, NDArray[Any]]) -> FloatArray:
        request = self._api.InferenceRequest(
            model_name=model,
            requested_output_names=[output],
            inputs=[self._api.Tensor(name, np.ascontiguousarray(given[name])) for name in self._inputs[model]],
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(f"the Triton model {model} failed: {response.error().message()}")
        array: FloatArray = self._api.get_output_tensor_by_name(response, output).as_numpy()
        return array
