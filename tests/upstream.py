"""An endpoint on this machine that streams what a test tells it to, byte for byte, and notes who goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Script:
    """A response: bytes, each sent by itself, and seconds to wait; and how it ends. `abort` resets the connection."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    pieces: Sequence[bytes | float] = ()
    end: Literal["whole", "abort", "hang", "abort at once", "hang at once"] = "whole"


class Upstream:
    """`scripts` holds the next responses, `rest` says what follows them, given a request."""

    served = ("only",)
    """Names of models."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.rest: Callable[[dict[str, Any]], Script] = lambda _: streamed(*said("7"))
        self.sent: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        """Of each request, by names in lower case."""
        self.gone: list[float] = []
        """When clients went away before the end, on the monotonic clock."""
        self.open = 0
        """Requests that are being answered."""
        self.connections: set[int] = set()
        self.runner: web.AppRunner | None = None

    @property
    def connected(self) -> int:
        """Connections that are open."""
        assert self.runner is not None and self.runner.server is not None
        return len(self.runner.server.connections)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.connections.add(id(request.transport))
        try:
            body = await request.json()
            self.sent.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            return await self.play(self.scripts.pop(0) if self.scripts else self.rest(body), request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.append(time.monotonic())
            raise
        finally:
            self.open -= 1

    async def play(self, script: Script, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        response = web.StreamResponse(status=script.status, headers=dict(script.headers))
        if script.end == "abort at once":
            request.transport.abort()
            return response
        if script.end == "hang at once":
            await asyncio.sleep(600)
        await response.prepare(request)
        for piece in script.pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        if script.end == "abort":
            await asyncio.sleep(0.02)  # what was written arrives before the reset
            request.transport.abort()
        elif script.end == "hang":
            await asyncio.sleep(600)
        return response

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.served]})


@contextlib.contextmanager
def upstream() -> Iterator[tuple[Upstream, str]]:
    """The endpoint and its address, until the end of the block."""
    server, loop, ready = Upstream(), asyncio.new_event_loop(), threading.Event()
    found: list[int] = []

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes([web.post("/v1/chat/completions", server.complete), web.get("/v1/models", server.models)])
        runner = server.runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
        await site.start()
        found.append(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        ready.set()
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    try:
        yield server, f"http://127.0.0.1:{found[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def event(record: Any) -> bytes:
    return b"data: " + (record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n\n"


def delta(reason: str | None = None, **what: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": what, "finish_reason": reason}]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4, "multimodal_tokens": {"image": 5}},
    },
}
DONE = event(b"[DONE]")


def said(*texts: str, reason: str = "stop") -> list[bytes]:
    """A whole reply, a piece of text an event."""
    return [*(event(delta(content=text)) for text in texts), event(delta(reason)), event(USAGE), DONE]


def streamed(*pieces: bytes | float, end: Any = "whole", **more: Any) -> Script:
    return Script(pieces=pieces, end=end, **more)


FAULTS = {
    "reset": (streamed(end="abort at once"), None),
    "reset in the middle": (streamed(event(delta(content="<think>")), end="abort"), "upstream_unreachable"),
    "429": (Script(status=429, headers={"Retry-After": "0"}, pieces=[b'{"error": {"message": "slow down"}}']), None),
    "500": (Script(status=500, pieces=[b"oops"]), None),
    "401": (Script(status=401, pieces=[b'{"error": {"message": "no such key"}}']), "upstream_no_access"),
    "hang": (streamed(end="hang at once"), "upstream_timeout"),
    "hang in the middle": (streamed(event(delta(content="<think>")), end="hang"), "upstream_timeout"),
    "half an event": (streamed(b'data: {"choices": [{"ind'), "upstream_error"),
    "no JSON": (streamed(b"data: not JSON\n\n", DONE), "upstream_error"),
    "a page": (Script(headers={"Content-Type": "text/html"}, pieces=[b"<html>gateway</html>"]), None),
    "an error event": (streamed(event({"error": {"message": "CUDA error"}}), DONE), "upstream_error"),
    "nothing said": (streamed(event(delta("stop")), DONE), "upstream_error"),
    "thinking only": (streamed(*said("<think>hm</think>")), "upstream_error"),
    "ended as an error": (streamed(*said("<think>guess", reason="error")), "upstream_error"),
}
"""What the endpoint does, and the code that a client is told where that can not be repaired by asking again."""
