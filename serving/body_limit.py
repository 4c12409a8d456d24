"""Refuses HTTP bodies that are too large or too slow before anything parses them.

Owns those two limits, as ASGI middleware.
"""

import asyncio
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Reads the whole body first, so that the application never waits for it.

    Args:
        app: the application behind it.
        max_bytes: 413 above.
        timeout_s: 408 after.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float = 5.0) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event, see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                is_more = True
                while is_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    is_more = message.get("more_body", False)
                    if len(body) > self._max_bytes:
                        await _refuse(send, status=413, problem=f"expected at most {self._max_bytes} bytes")
                        return
        except TimeoutError:
            await _refuse(send, status=408, problem=f"expected the whole body within {self._timeout_s:g} s")
            return
        unread: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, replay, send)


async def _refuse(send: Send, *, status: int, problem: str) -> None:
    content = json.dumps({"error": {"field": "body", "message": problem}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
