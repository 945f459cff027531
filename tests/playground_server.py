"""The playground on a server that plays scripts: streams in the gateway's format, held where a test wants to look, and faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from visionthink.serve.page import page_routes

BREAK = object()
"""In a script: the connection is cut here."""


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat completion."""
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": choices} | more
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def view(box: Sequence[int], level: float, width: int, height: int, tokens: int, image: int = 0) -> dict[str, Any]:
    return {"image": image, "box": list(box), "level": level, "width": width, "height": height, "visual_tokens": tokens}


def looked(turn: int, *views: dict[str, Any]) -> bytes:
    return chunk(visionthink={"type": "looked", "turn": turn, "views": list(views)})


def decided(rule: str, text: str) -> bytes:
    return chunk(visionthink={"type": "decided", "rule": rule, "text": text})


def thought(text: str) -> bytes:
    return chunk({"reasoning_content": text})


def said(text: str) -> bytes:
    return chunk({"content": text})


def bill(tokens: int, full: int, looks: int, seconds: float, rule: str = "model") -> dict[str, Any]:
    named = {"image_tokens": tokens, "image_tokens_full": full, "saved": full - tokens, "measured": True, "rule": rule}
    return {"looks": looks, "rounds": looks + 1, "seconds": seconds} | named


def ended(owed: dict[str, Any], finish: str = "stop") -> bytes:
    """The chunk with the finish reason, the one with the usage, and the end."""
    usage = {"prompt_tokens": 40, "completion_tokens": 4, "total_tokens": 44, "visionthink": owed}
    last = chunk(finish=finish, visionthink=owed)
    return last + chunk(choices=[], usage=usage) + b"data: [DONE]\n\n"


@dataclass(kw_only=True)
class Play:
    """One answer: bytes, events to wait for before the rest, BREAK; or a body that is no stream."""

    script: Sequence[bytes | threading.Event | object] = ()
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class PlaygroundServer:
    """`plays` holds the next answers, `sent` what was asked. With a `key`, requests need it."""

    def __init__(self) -> None:
        self.plays: list[Play] = []
        self.sent: list[dict[str, Any]] = []
        self.models = ["tiny"]
        self.key = ""
        self.gone = threading.Event()
        """Set when a client has left a stream before its end."""
        routes = [Route("/v1/models", self._models), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        self.app = Starlette(routes=[*page_routes(), *routes])
        self.url = ""

    def play(self, *script: bytes | threading.Event | object) -> None:
        self.plays.append(Play(script=script))

    def _refused(self, request: Request) -> Response | None:
        if not self.key or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        error = {
            "message": "This server needs an API key.",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
        return JSONResponse({"error": error}, 401)

    async def _models(self, request: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": 1, "owned_by": "visionthink"} for name in self.models]
        return self._refused(request) or JSONResponse({"object": "list", "data": listed})

    async def _chat(self, request: Request) -> Response:
        self.sent.append(await request.json())
        if refused := self._refused(request):
            return refused
        play = self.plays.pop(0)
        if not play.script:
            if isinstance(play.body, str):
                return Response(play.body, play.status, play.headers, "text/html")
            return JSONResponse(play.body, play.status, play.headers)
        return StreamingResponse(self._stream(play.script), play.status, play.headers, "text/event-stream")

    async def _stream(self, script: Sequence[Any]) -> AsyncIterator[bytes]:
        finished = False
        try:
            for piece in script:
                if piece is BREAK:
                    finished = True
                    await asyncio.sleep(0.3)  # what was sent is read before: a browser may drop what it has not read yet
                    raise ConnectionResetError
                if isinstance(piece, threading.Event):
                    while not piece.is_set():
                        await asyncio.sleep(0.01)
                else:
                    yield piece
                    await asyncio.sleep(0)
            finished = True
        finally:
            if not finished:
                self.gone.set()


@contextlib.contextmanager
def playground_server() -> Iterator[PlaygroundServer]:
    """The server on a free port of this machine, until the end of the block."""
    served = PlaygroundServer()
    config = uvicorn.Config(served.app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        served.url = f"http://127.0.0.1:{port}/"
        yield served
    finally:
        server.should_exit = True
        thread.join()
