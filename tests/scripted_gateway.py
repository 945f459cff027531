"""A gateway in which a script answers: the real wire, without a model. The name of the model in a request chooses the script."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from visionthink.errors import ImageError
from visionthink.serve import chat, responses
from visionthink.serve.admission import Admission
from visionthink.serve.bill import Bill
from visionthink.serve.conversation import Conversation
from visionthink.serve.errors import ApiError
from visionthink.serve.events import CalledTools, Decided, Ended, Event, Failed, Looked, Text, Thought
from visionthink.serve.limits import Limits
from visionthink.serve.responses_stream import ResponseWriter
from visionthink.serve.streaming import Envelope, EventStream
from visionthink.types import Box, Shown

BILL = Bill(
    prompt_tokens=300,
    completion_tokens=12,
    prompt_image_tokens=96,
    image_tokens=80,
    image_tokens_full=64,
    cached_tokens=128,
    rounds=2,
    looks=1,
    measured=True,
    rule="model",
    seconds=0.123456,
)
LOW = Shown(box=Box(0, 0, 224, 224), level=0.25, width=112, height=112, visual_tokens=16)
FULL = Shown(box=Box(0, 0, 224, 224), level=1.0, width=224, height=224, visual_tokens=64)
CALL = {"id": "call_7", "type": "function", "function": {"name": "look_up", "arguments": '{"key": "red"}'}}

SCRIPTS: dict[str, tuple[Event | float, ...]] = {
    "plain": (Text("It is "), Text("red.\u2028"), Ended("stop", BILL)),
    "looks": (
        Looked(0, (LOW,)),
        Thought("Too small "),
        Thought("to read."),
        Decided("model", "the model asked to see more"),
        Looked(1, (FULL,)),
        Text("It is "),
        Text("red."),
        Ended("stop", BILL),
    ),
    "tools": (Text("Let me see."), CalledTools((CALL, CALL | {"id": "call_8"})), Ended("tool_calls", BILL)),
    "cut": (Thought("Hm"), Text("It is"), Ended("length", BILL)),
    "filtered": (Text("It"), Ended("content_filter", BILL)),
    "fails_at_once": (Looked(0, (LOW,)), Failed("rate_limit", "HTTP 429 slow down")),
    "fails_late": (Text("It is"), Failed("timeout", "no token for 60 s")),
    "stops_short": (Text("It is"),),
    "slow": (1.0, Text("It is "), 0.6, Text("red."), Ended("stop", BILL)),
    "slow_to_fail": (0.5, Failed("server", "HTTP 500")),
    "endless": (Text("It is"), 3600.0),
}


class Gateway:
    """The app, and what became of its answers."""

    def __init__(self, every: float = 15.0):
        self.every, self.asked, self.closed = every, list[Conversation](), list[str]()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/responses")(self.responses)
        self.app.exception_handler(ApiError)(self.refused)
        self.app.add_middleware(Admission, limits=Limits())

    async def play(self, script: str) -> AsyncGenerator[Event]:
        try:
            for event in SCRIPTS[script]:
                if isinstance(event, float):
                    await asyncio.sleep(event)
                else:
                    yield event
        finally:
            self.closed.append(script)

    async def chat(self, request: Request) -> Response:
        asked = chat.read_chat(await request.body(), read=decoded, headers=request.headers)
        self.asked.append(asked)
        envelope, events = Envelope.of(asked, "chatcmpl-"), self.play(asked.model)
        if asked.stream:
            return EventStream(chat.chunks(events, envelope), chat.late, every=self.every)
        record, headers = await chat.completion(events, envelope)
        return JSONResponse(record, headers=headers)

    async def responses(self, request: Request) -> Response:
        asked, said_again = responses.read_responses(await request.body(), read=decoded, headers=request.headers)
        self.asked.append(asked)
        writer, events = ResponseWriter(Envelope.of(asked, "resp_"), said_again), self.play(asked.model)
        if asked.stream:
            return EventStream(writer.stream(events), writer.late, every=self.every)
        record, headers = await writer.whole(events)
        return JSONResponse(record, headers=headers)

    async def refused(self, request: Request, error: Any) -> Response:
        return error.response()


def decoded(url: str) -> bytes:
    """The bytes of a data URL."""
    if not url.startswith("data:image/png;base64,"):
        raise ImageError("not a data URL of a PNG")
    return base64.b64decode(url.partition(",")[2])


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An app behind a real server on loopback; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
