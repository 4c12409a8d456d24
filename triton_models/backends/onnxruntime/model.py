"""The backend `onnxruntime` for a Triton that lacks it: serves `1/model.onnx` with the config.pbtxt unmodified.

The wheel's Triton has the Python backend alone. A production image has NVIDIA's backend of the same name and serves the
same repository, so nothing outside this file knows which one answers. This file knows nothing of what the models are.
"""

# Shapes: B rows of all requests that Triton batched; a request brings one or more of them.

import json
import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]

if int(np.__version__.split(".")[0]) >= 2:
    # Release 24.10's stub takes numpy 2 arrays for other data without a word (docs/decisions/0001-two-environments.md).
    raise ImportError(f"this Triton's Python stub needs numpy < 2, found {np.__version__}: run `make setup`")


class TritonPythonModel:
    """One onnxruntime session; one run for all requests of the same shape."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model and check that it has the tensors that its config declares."""
        config = json.loads(args["model_config"])
        path = os.path.join(
            args["model_repository"], args["model_version"], config.get("default_model_filename") or "model.onnx"
        )
        self.session = onnxruntime.InferenceSession(path, _options(config), providers=_providers(args))
        self.is_batched = config["max_batch_size"] > 0
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = [one["name"] for one in config["output"]]
        found_inputs = [one.name for one in self.session.get_inputs()]
        found_outputs = [one.name for one in self.session.get_outputs()]
        if set(self.inputs) != set(found_inputs) or not set(self.outputs) <= set(found_outputs):
            raise pb_utils.TritonModelException(
                f"{path} maps {found_inputs} to {found_outputs}; "
                f"its config.pbtxt declares {self.inputs} to {self.outputs}"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; one that fails leaves the others alone."""
        inputs = [self._read(request) for request in requests]
        responses: list[Any] = [None] * len(requests)
        for members in self._groups(inputs):
            try:
                outputs = self._run([inputs[i] for i in members])
            except Exception as error:  # onnxruntime has a dozen types; none may end the stub
                failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
                for i in members:
                    responses[i] = pb_utils.InferenceResponse(error=failure)
                continue
            for i, arrays in zip(members, outputs, strict=True):
                tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
                responses[i] = pb_utils.InferenceResponse(tensors)
        return responses

    def _read(self, request: Any) -> Arrays:
        return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]

    def _groups(self, inputs: list[Arrays]) -> list[list[int]]:
        if not self.is_batched:
            return [[i] for i in range(len(inputs))]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for i, arrays in enumerate(inputs):
            groups.setdefault(tuple(array.shape[1:] for array in arrays), []).append(i)
        return list(groups.values())

    def _run(self, requests: list[Arrays]) -> list[Arrays]:
        if len(requests) == 1:
            return [self.session.run(self.outputs, dict(zip(self.inputs, requests[0], strict=True)))]
        stacked = [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]  # [B, ...] each
        outputs = self.session.run(self.outputs, dict(zip(self.inputs, stacked, strict=True)))
        ends = np.cumsum([len(arrays[0]) for arrays in requests])[:-1]
        return [list(parts) for parts in zip(*(np.split(output, ends) for output in outputs), strict=True)]


def _options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    threads = config["parameters"].get("intra_op_thread_count")  # the real backend's name for it
    options.intra_op_num_threads = int(threads["string_value"]) if threads else 1
    # Two instances on two cores, 4 clients: 299 requests/s; with spinning and default threads 138.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise pb_utils.TritonModelException("KIND_GPU needs onnxruntime-gpu in the server's environment")
    return [("CUDAExecutionProvider", {"device_id": args["model_instance_device_id"]}), "CPUExecutionProvider"]
