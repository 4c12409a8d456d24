"""The Triton model `change_items`: maps Triton's tensors to a change of the release's items, nothing more.

What the tensors mean and which are refused is serving/item_wire.py's, how a change is made serving/change_items.py's.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from serving import item_wire
from serving.change_items import ItemChanger
from serving.errors import InvalidRequest, RequestFailed, ServerUnavailable, ServingError

if int(np.__version__.split(".")[0]) >= 2:
    # Release 24.10's stub takes numpy 2 arrays for other data without a word (docs/decisions/0001-two-environments.md).
    raise ImportError(f"this Triton's Python stub needs numpy < 2, found {np.__version__}: run `make setup`")

_log = logging.getLogger(__name__)


class TritonPythonModel:
    """One opened release."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the release; a damaged one raises, and the server says so and refuses to load."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        parameters = json.loads(args["model_config"])["parameters"]
        self.changer = ItemChanger.open(Path(parameters["release_dir"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Make the changes of each request; one that is refused leaves the others alone."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """End what runs beside."""
        self.changer.close()

    def _answer(self, request: Any) -> Any:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in item_wire.INPUTS}
        try:
            found = self.changer.change(tensors)
        except InvalidRequest as error:
            return _failure(error, pb_utils.TritonError.INVALID_ARG)
        except ServerUnavailable as error:
            return _failure(error, pb_utils.TritonError.UNAVAILABLE)
        except ServingError as error:
            return _failure(error, pb_utils.TritonError.INTERNAL)
        except Exception as error:  # whatever breaks inside must reach the caller and not end the process
            _log.exception("a change of items failed")
            return _failure(RequestFailed(f"{type(error).__name__}: {error}"), pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in found.items()])


def _failure(error: ServingError, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
