"""The Triton model `recommend`: maps Triton's tensors to the pipeline and back, nothing more.

What the tensors mean and which are refused is serving/wire.py's, how requests share a call serving/batch.py's, and how
an answer is made serving/pipeline.py's.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from serving import wire
from serving.batch import answer_batch
from serving.bls_models import BlsModels
from serving.errors import InvalidRequest, ServingError
from serving.pipeline import Pipeline
from serving.settings import PipelineSettings, build_settings

if int(np.__version__.split(".")[0]) >= 2:
    # Release 24.10's stub takes numpy 2 arrays for other data without a word (docs/decisions/0001-two-environments.md).
    raise ImportError(f"this Triton's Python stub needs numpy < 2, found {np.__version__}: run `make setup`")


class TritonPythonModel:
    """One opened release; Triton runs as many of these as the config says."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the release; a damaged one raises, and the server says so and refuses to load."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        models = None
        if parameters["models"] == "bls":
            models = BlsModels(triton_api=pb_utils, inputs=json.loads(parameters["model_inputs"]))
        settings = build_settings(PipelineSettings, json.loads(parameters["pipeline"]))
        self.pipeline = Pipeline.open(Path(parameters["release_dir"]), settings=settings, models=models)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; one that is refused leaves the others alone."""
        tensors = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in wire.INPUTS}
            for request in requests
        ]
        return [_response(response) for response in answer_batch(tensors, pipeline=self.pipeline)]


def _response(response: wire.Tensors | ServingError) -> Any:
    if isinstance(response, ServingError):
        is_invalid = isinstance(response, InvalidRequest)
        code = pb_utils.TritonError.INVALID_ARG if is_invalid else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(response), code))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in response.items()])
