"""Asks Triton's `recommend` over gRPC, from a script or from an event loop.

Owns asking once more after a change of the FeatureSpec. Knows the tensors from wire.py, how a call is made from
triton_call.py, and nothing of where features are read.
"""

import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from features.transforms import QueryFeatures
from serving import wire
from serving.answers import Answer
from serving.errors import ServerUnavailable, SpecMismatch
from serving.item_filter import ItemFilter
from serving.triton_call import CHANNEL, inputs_of, outputs_of, remaining_s, serving_error, tensors_of

# Features read again, with the hash of the spec they are of now.
Reread = Callable[[], tuple[QueryFeatures, str]]
AsyncReread = Callable[[], Awaitable[tuple[QueryFeatures, str]]]

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
        self._open: triton.InferenceServerClient | None = triton.InferenceServerClient(address, channel_args=CHANNEL)

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
        only: ItemFilter | None = None,
        request_id: str = "",
        reread: Reread | None = None,
    ) -> list[Answer]:
        """One answer a query, at most `wire.MAX_BATCH` of them.

        Args:
            queries: their raw features.
            k: length of each answer.
            spec_hash: of the FeatureSpec that the features are of.
            with_candidates: also return what was retrieved.
            only: of the items that pass it; None: of all.
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
                only=only,
                spec_hash=spec_hash,
                request_id=request_id,
                deadline=deadline,
            )
        except SpecMismatch:
            if reread is None:
                raise
        queries, spec_hash = reread()
        return self._ask(
            queries,
            k=k,
            with_candidates=with_candidates,
            only=only,
            spec_hash=spec_hash,
            request_id=request_id,
            deadline=deadline,
        )

    def _ask(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        with_candidates: bool,
        only: ItemFilter | None,
        spec_hash: str,
        request_id: str,
        deadline: float,
    ) -> list[Answer]:
        tensors = wire.encode_request(queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash, only=only)
        try:
            result = self._client.infer(
                wire.MODEL,
                inputs_of(tensors, wire.INPUTS),
                outputs=outputs_of(wire.OUTPUTS),
                request_id=request_id,
                client_timeout=remaining_s(deadline),
            )
        except InferenceServerException as error:
            raise serving_error(error, address=self.address, model=wire.MODEL, fields=wire.INPUTS) from error
        return wire.decode_answers(tensors_of(result, wire.OUTPUTS))


class AsyncRecommendClient:
    """The same for an event loop: the one in which it is first used."""

    def __init__(self, *, address: str) -> None:
        self.address = address

    @cached_property
    def _client(self) -> Any:
        # Not in the constructor: a channel belongs to the loop that runs when it is made.
        return triton_aio.InferenceServerClient(self.address, channel_args=CHANNEL)

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
        only: ItemFilter | None = None,
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
                only=only,
                spec_hash=spec_hash,
                request_id=request_id,
                deadline=deadline,
            )
        except SpecMismatch:
            if reread is None:
                raise
        queries, spec_hash = await reread()
        return await self._ask(
            queries,
            k=k,
            with_candidates=with_candidates,
            only=only,
            spec_hash=spec_hash,
            request_id=request_id,
            deadline=deadline,
        )

    async def _ask(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        with_candidates: bool,
        only: ItemFilter | None,
        spec_hash: str,
        request_id: str,
        deadline: float,
    ) -> list[Answer]:
        tensors = wire.encode_request(queries, k=k, with_candidates=with_candidates, spec_hash=spec_hash, only=only)
        try:
            result = await self._client.infer(
                wire.MODEL,
                inputs_of(tensors, wire.INPUTS),
                outputs=outputs_of(wire.OUTPUTS),
                request_id=request_id,
                client_timeout=remaining_s(deadline),
            )
        except InferenceServerException as error:
            raise serving_error(error, address=self.address, model=wire.MODEL, fields=wire.INPUTS) from error
        return wire.decode_answers(tensors_of(result, wire.OUTPUTS))
