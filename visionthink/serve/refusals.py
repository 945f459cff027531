"""Requests that are refused before they are read."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope, Send

from visionthink.serve.errors import ApiError

_DRAINED_BYTES, _DRAINED_SECONDS = 32_000_000, 2.0


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header, by its name in lower case; those of several headers of that name with commas between them."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


async def refuse(error: ApiError, receive: Receive, send: Send) -> None:
    """Answer without having read the body, and close the connection.

    The response is sent at once, but a little of the body is thrown away before the connection is closed: a client that is still
    sending would else meet a closed connection, and never see why.
    """
    response = error.response()
    headers = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAINED_SECONDS):
            drained, more = 0, True
            while more and drained < _DRAINED_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
