"""One call of a Triton model over gRPC: tensors there and back, deadlines, and what each status means to a caller.

Owns no model's tensors; these are wire.py's and item_wire.py's.
"""

import re
import time
from collections.abc import Container, Iterable, Mapping
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestFailed,
    ServerUnavailable,
    ServingError,
    SpecMismatch,
)

# gRPC would wait up to 2 minutes before it tries a server again that was away; a restart here takes seconds.
CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


def inputs_of(tensors: Mapping[str, Any], datatypes: Mapping[str, str]) -> list[Any]:
    """A call's inputs, of these names and Triton data types."""
    inputs = []
    for name, datatype in datatypes.items():
        tensor = triton.InferInput(name, list(tensors[name].shape), datatype)
        tensor.set_data_from_numpy(tensors[name])
        inputs.append(tensor)
    return inputs


def outputs_of(names: Iterable[str]) -> list[Any]:
    """What a call asks for."""
    return [triton.InferRequestedOutput(name) for name in names]


def tensors_of(result: Any, names: Iterable[str]) -> dict[str, Any]:
    """A call's outputs.

    Raises:
        RequestFailed: one is missing.
    """
    tensors = {name: result.as_numpy(name) for name in names}
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise RequestFailed(f"the server's answer lacks {missing}: is it of another version of this project?")
    return tensors


def remaining_s(deadline: float) -> float:
    """Seconds until a time of the monotonic clock.

    Raises:
        DeadlineExceeded: it has passed.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the deadline passed before the server was asked")
    return remaining


def serving_error(error: InferenceServerException, *, address: str, model: str, fields: Container[str]) -> ServingError:
    """What a failed call of a model with these inputs means to its caller."""
    status, message = str(error.status()).removeprefix("StatusCode."), str(error.message())
    if status == "INVALID_ARGUMENT":
        field, problem = _field_and_problem(message, fields)
        return SpecMismatch(problem) if field == "spec_hash" else InvalidRequest(field=field, message=problem)
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"Triton at {address} did not answer in time")
    if status in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND"):  # a server that starts or stops answers with each of them
        return ServerUnavailable(f"Triton at {address} is not serving {model}: {message}")
    return RequestFailed(f"Triton at {address} failed ({status}): {message}")


def _field_and_problem(message: str, fields: Container[str]) -> tuple[str, str]:
    """Split what the model refused (`k: expected ...`) or what Triton itself did (`... input 'k' ...`)."""
    own = re.match(r"(\w+): (.*)", message, flags=re.DOTALL)
    if own and own[1] in fields:
        return own[1], own[2]
    named = re.search(r"missing required input\(s\) \['(\w+)'", message) or re.search(r"input '(\w+)'", message)
    return (named[1] if named else "request"), message
