"""How uvicorn reads requests: strictly, within bounds, and not for ever.

httptools parses: it refuses what two servers in a row may understand differently (two lengths, a length beside chunks, folded
headers, lines that end without a carriage return), most of which h11 accepts. What h11 does better is done here: headers of
bounded size, one host for a request.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 16_384
HEADER_SECONDS = 10.0
UNREAD_SECONDS = 30.0
CONNECTIONS = 1000
"""Others are answered with 503."""


class StrictConnection(HttpToolsProtocol):
    """A connection that is closed where headers are larger than `HEADER_BYTES` or do not come within `HEADER_SECONDS`, or where
    the client does not read what it is sent for `UNREAD_SECONDS`. uvicorn itself sets no limit to any of these.

    What a callback raises, uvicorn answers with status 400, and closes the connection.
    """

    _headers_late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_headers = _in_request = _told = False
    _header_bytes = _silent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._headers_late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._told = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # the parser tells nothing of a header that is not complete, nor of what is said beside a chunk
        self._silent_bytes = 0 if self._told or not self._in_request else self._silent_bytes + len(data)
        if self._silent_bytes > HEADER_BYTES:
            self.send_400_response("The headers are too large.")
        elif self.cycle is None or self.cycle.response_complete:
            self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_request = self._in_headers = True
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + len(": \r\n")
        if not self._in_headers or self._header_bytes > HEADER_BYTES:
            raise ValueError("headers behind the body, or too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers, self._told = False, True
        if self._headers_late is not None:
            self._headers_late.cancel()
            self._headers_late = None
        names, old = [name for name, _ in self.headers], self.parser.get_http_version() == "1.0"
        if names.count(b"host") != 1 and not (old and b"host" not in names):
            raise ValueError("not one host")
        if (old and b"transfer-encoding" in names) or self.parser.should_upgrade():
            raise ValueError("chunks in a version without them, or another protocol")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def _expect_headers(self) -> None:
        if self._headers_late is None:
            self._headers_late = self.loop.call_later(HEADER_SECONDS, self.transport.abort)


def server_options() -> dict[str, Any]:
    """Options for `uvicorn.Config` that the gateway's limits rely on."""
    return {
        "http": StrictConnection,
        "ws": "none",
        "limit_concurrency": CONNECTIONS,
        "timeout_keep_alive": 5,
        "access_log": False,  # it would hold the queries of addresses
        "server_header": False,
        "proxy_headers": False,  # anyone may send them
    }
