"""Asks Triton's `recommend` over gRPC, from a script or from an event loop.

Owns deadlines, reconnecting, and what each gRPC status means to a caller. Knows the tensors from wire.py and nothing of
where features are read.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from features.transforms import QueryFeatures
from serving import wire
from serving.answers import Answer
from serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestFailed,
    ServerUnavailable,
    ServingError,
    SpecMismatch,
)

# Features read again, with the hash of the spec they are of now.
Reread = Callable[[], tuple[QueryFeatures, str]]
AsyncReread = Callable[[], Awaitable[tuple[QueryFeatures, str]]]

# gRPC would wait up to 2 minutes before it tries a server again that was away; a restart here takes seconds.
_CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
_HEALTH_TIMEOUT_S = 1.0


class RecommendClient:
    """Blocking client, as a context manager; threads may share it.

    Args:
        address: host:port of Triton's gRPC service.
        deadline_s: for one call of `recommend`, a second attempt included.
    """

    def __init__(self, *, address: str, deadline_s: float = 1.0) -> None:
        self.address = address
        self.deadline_s = deadline_s
        self._open: triton.InferenceServerClient | None = triton.InferenceServerClient(address, channel_args=_CHANNEL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; once more changes nothing."""
        if self._open is not None:
            self._open.close()
            self._open = None  # it closes again as it is collected, which fails once the interpreter is at its end

    @property
    def _client(self) -> triton.InferenceServerClient:
        if self._open is None:
            raise ServerUnavailable(f"this client of {self.address} was closed: open another")
        return self._open

    def is_ready(self) -> bool:
        """Whether the server answers and says that `recommend` is loaded."""
        try:
            return bool(self._client.is_model_ready(wire.MODEL, client_timeout=_HEALTH_TIMEOUT_S))
        except (InferenceServerException, ServerUnavailable):
            return False

    def recommend(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        spec_hash: str,
        with_candidates: bool = False,
        request_id: str = "",
        reread: Reread | None = None,
    ) -> list[Answer]:
        """One answer a query, at most `wire.MAX_BATCH` of them.

        Args:
            queries: their raw features.
            k: length of each answer.
            spec_hash: of the FeatureSpec that the features are of.
            with_candidates: also return what was retrieved.
            request_id: for the server's log and trace.
            reread: gives the features again when the server has another spec; tried once.

        Raises:
            InvalidRequest, SpecMismatch, ServerUnavailable, DeadlineExceeded, RequestFailed: see errors.py.
        """
        deadline = time.monotonic() + self.deadline_s
        try:
            return self._ask(
                queries,
                k=k,
                with_candidates=with_candidates,
                spec_hash=spec_hash,
                request_id=request_id,
                deadline=deadline,
            )
        except SpecMismatch:
            if reread is None:
                raise
        queries, spec_hash = reread()
        return self._ask(
            queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash, request_id=request_id, deadline=deadline
        )

    def _ask(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        with_candidates: bool,
        spec_hash: str,
        request_id: str,
        deadline: float,
    ) -> list[Answer]:
        tensors = wire.encode_request(queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash)
        try:
            result = self._client.infer(
                wire.MODEL,
                _inputs(tensors),
                outputs=_outputs(),
                request_id=request_id,
                client_timeout=_remaining_s(deadline),
            )
        except InferenceServerException as error:
            raise _serving_error(error, address=self.address) from error
        return _answers(result)


class AsyncRecommendClient:
    """The same for an event loop: the one in which it is first used."""

    def __init__(self, *, address: str) -> None:
        self.address = address

    @cached_property
    def _client(self) -> Any:
        # Not in the constructor: a channel belongs to the loop that runs when it is made.
        return triton_aio.InferenceServerClient(self.address, channel_args=_CHANNEL)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def is_ready(self) -> bool:
        """Whether the server answers and says that `recommend` is loaded."""
        try:
            return bool(await self._client.is_model_ready(wire.MODEL, client_timeout=_HEALTH_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def recommend(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        spec_hash: str,
        deadline_s: float,
        with_candidates: bool = False,
        request_id: str = "",
        reread: AsyncReread | None = None,
    ) -> list[Answer]:
        """See `RecommendClient.recommend`; `deadline_s` is what is left of the caller's own deadline."""
        deadline = time.monotonic() + deadline_s
        try:
            return await self._ask(
                queries,
                k=k,
                with_candidates=with_candidates,
                spec_hash=spec_hash,
                request_id=request_id,
                deadline=deadline,
            )
        except SpecMismatch:
            if reread is None:
                raise
        queries, spec_hash = await reread()
        return await self._ask(
            queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash, request_id=request_id, deadline=deadline
        )

    async def _ask(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        with_candidates: bool,
        spec_hash: str,
        request_id: str,
        deadline: float,
    ) -> list[Answer]:
        tensors = wire.encode_request(queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash)
        try:
            result = await self._client.infer(
                wire.MODEL,
                _inputs(tensors),
                outputs=_outputs(),
                request_id=request_id,
                client_timeout=_remaining_s(deadline),
            )
        except InferenceServerException as error:
            raise _serving_error(error, address=self.address) from error
        return _answers(result)


def _inputs(tensors: Mapping[str, Any]) -> list[Any]:
    inputs = []
    for name, datatype in wire.INPUTS.items():
        tensor = triton.InferInput(name, list(tensors[name].shape), datatype)
        tensor.set_data_from_numpy(tensors[name])
        inputs.append(tensor)
    return inputs


def _outputs() -> list[Any]:
    return [triton.InferRequestedOutput(name) for name in wire.OUTPUTS]


def _answers(result: Any) -> list[Answer]:
    tensors = {name: result.as_numpy(name) for name in wire.OUTPUTS}
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise RequestFailed(f"the server's answer lacks {missing}: is it of another version of this project?")
    return wire.decode_answers(tensors)


def _remaining_s(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the deadline passed before the server was asked")
    return remaining


def _serving_error(error: InferenceServerException, *, address: str) -> ServingError:
    status, message = str(error.status()).removeprefix("StatusCode."), str(error.message())
    if status == "INVALID_ARGUMENT":
        field, problem = _field_and_problem(message)
        return SpecMismatch(problem) if field == "spec_hash" else InvalidRequest(field=field, message=problem)
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"Triton at {address} did not answer in time")
    if status in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND"):  # a server that starts or stops answers with each of them
        return ServerUnavailable(f"Triton at {address} is not serving {wire.MODEL}: {message}")
    return RequestFailed(f"Triton at {address} failed ({status}): {message}")


def _field_and_problem(message: str) -> tuple[str, str]:
    """Split what the model refused (`k: expected ...`) or what Triton itself did (`... input 'k' ...`)."""
    own = re.match(r"(\w+): (.*)", message, flags=re.DOTALL)
    if own and own[1] in wire.INPUTS:
        return own[1], own[2]
    named = re.search(r"missing required input\(s\) \['(\w+)'", message) or re.search(r"input '(\w+)'", message)
    return (named[1] if named else "request"), message
