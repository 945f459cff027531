"""How uvicorn reads requests: strictly, within bounds, and not for ever.

httptools parses: it refuses what two servers in a row may understand differently (two lengths, a length beside chunks, folded
headers, lines that end without a carriage return), most of which h11 accepts. What h11 does better is done here: headers of bounded
size, one host for a request.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 16_384
HEADER_SECONDS = 10.0
UNREAD_SECONDS = 30.0


class StrictConnection(HttpToolsProtocol):
    """A connection that is closed where headers are larger than `HEADER_BYTES` or do not come within `HEADER_SECONDS`, or where
    the client does not read what it is sent for `UNREAD_SECONDS`. uvicorn itself sets no limit to any of these.

    What a callback raises, uvicorn answers with status 400, and closes the connection.
    """

    _headers_late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_headers = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._headers_late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_headers:  # of a header that is not complete the parser tells nothing
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self.send_400_response("The headers are too large.")
        if self.cycle is None or self.cycle.response_complete:
            self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._headers_late is not None:
            self._headers_late.cancel()
            self._headers_late = None
        names = [name for name, _ in self.headers]
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEADER_BYTES:
            raise ValueError("headers too large")
        if names.count(b"host") != 1:
            raise ValueError("not one host")
        if b"transfer-encoding" in names and self.parser.get_http_version() != "1.1":
            raise ValueError("chunks in a version without them")
        super().on_headers_complete()

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


def server_options(*, connections: int = 1000) -> dict[str, Any]:
    """Options for `uvicorn.Config` that the gateway's limits rely on. Beyond so many connections a server answers 503."""
    return {
        "http": StrictConnection,
        "ws": "none",
        "limit_concurrency": connections,
        "timeout_keep_alive": 5,
        "access_log": False,  # it would hold the queries of addresses
        "server_header": False,
        "proxy_headers": False,  # anyone may send them
    }
