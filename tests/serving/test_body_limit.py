import asyncio
from typing import Any

import pytest

from serving.body_limit import BodyLimit


def served(messages: list[dict[str, Any]]) -> tuple[list[bytes], list[int]]:
    """Bodies that the application got, and statuses that were sent, for what a caller sends."""
    bodies: list[bytes] = []
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])

    asyncio.run(BodyLimit(app, max_bytes=10, timeout_s=0.05)({"type": "http"}, receive, send))
    return bodies, statuses


def part(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": not is_last}


def test_a_body_that_comes_in_parts_is_handed_on_whole() -> None:
    assert served([part(b"12345"), part(b"67890", is_last=True)]) == ([b"1234567890"], [])


@pytest.mark.parametrize("parts", [[b"12345678901"], [b"12345", b"678901"]])
def test_a_body_that_is_too_large_is_not(parts: list[bytes]) -> None:
    assert served([part(body) for body in parts]) == ([], [413])


def test_a_body_that_does_not_end_is_given_up() -> None:
    assert served([part(b"1")]) == ([], [408])


def test_a_caller_that_leaves_gets_nothing() -> None:
    assert served([part(b"1"), {"type": "http.disconnect"}]) == ([], [])
