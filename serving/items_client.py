"""Changes items of a served release through Triton's `change_items` over gRPC.

Owns what a caller may take for done. Knows the tensors from item_wire.py.
"""

import time
from types import TracebackType
from typing import Self

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving import item_wire
from serving.item_wire import ChangeRequest
from serving.triton_call import CHANNEL, inputs_of, outputs_of, remaining_s, serving_error, tensors_of


class ItemsClient:
    """Blocking client, as a context manager; threads may share it.

    Args:
        address: host:port of Triton's gRPC service.
        deadline_s: for one call of `change`.
    """

    def __init__(self, *, address: str, deadline_s: float = 10.0) -> None:
        self.address = address
        self.deadline_s = deadline_s
        self._client = triton.InferenceServerClient(address, channel_args=CHANNEL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def change(self, request: ChangeRequest, *, spec_hash: str, request_id: str = "") -> int:
        """Change items; returns the change's number, which later answers carry or a later one.

        Once it returns, the change is on the server's disk, and every server of this release makes it before it answers
        again. A call that failed otherwise than by InvalidRequest or SpecMismatch may have been made: look for the
        items, or ask again, for adding and updating twice is the same as once.

        Args:
            request: what to change, all of it or nothing.
            spec_hash: of the FeatureSpec that the items' facts are of.
            request_id: for the server's log and trace.

        Raises:
            InvalidRequest, SpecMismatch, ServerUnavailable, DeadlineExceeded, RequestFailed: see errors.py.
        """
        deadline = time.monotonic() + self.deadline_s
        tensors = item_wire.encode_changes(request, spec_hash=spec_hash)
        try:
            result = self._client.infer(
                item_wire.MODEL,
                inputs_of(tensors, item_wire.INPUTS),
                outputs=outputs_of(item_wire.OUTPUTS),
                request_id=request_id,
                client_timeout=remaining_s(deadline),
            )
        except InferenceServerException as error:
            raise serving_error(error, address=self.address, model=item_wire.MODEL, fields=item_wire.INPUTS) from error
        return int(tensors_of(result, item_wire.OUTPUTS)["number"][0])
