"""What answers of both APIs have in common on their way to a client: the whole of one, and a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from visionthink.serve.conversation import Conversation
from visionthink.serve.errors import ApiError, of_exception, of_failure
from visionthink.serve.events import CalledTools, Decided, Ended, Event, Failed, Looked, Text, Thought

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What every object of an answer says of it, and how it is to be told."""

    id: str
    created: int
    model: str
    events: bool = False
    """Whether what was looked at, and why, is told as well."""
    usage: bool = False
    """Whether a stream of chat completions ends with the usage."""

    @classmethod
    def of(cls, conversation: Conversation, prefix: str) -> Envelope:
        """Of a new answer; ids begin with `chatcmpl-` or `resp_`."""
        return cls(
            id=prefix + secrets.token_hex(16),
            created=int(time.time()),
            model=conversation.model,
            events=conversation.override.events,
            usage=conversation.stream_usage,
        )


def told(event: Looked | Decided) -> dict[str, Any]:
    """What was looked at, or why, as a client is told it."""
    if isinstance(event, Decided):
        return {"type": "decided", "rule": event.rule, "text": event.text}
    views = [
        {
            "image": view.image,
            "box": list(view.box),
            "level": view.level,
            "width": view.width,
            "height": view.height,
            "visual_tokens": view.visual_tokens,
        }
        for view in event.views
    ]
    return {"type": "looked", "turn": event.turn, "views": views}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer."""

    text: str
    thoughts: str
    calls: tuple[Mapping[str, Any], ...]
    told: list[dict[str, Any]]
    """What was looked at, and why."""
    ended: Ended


async def collected(events: AsyncGenerator[Event]) -> Answer:
    """All of an answer.

    Raises:
        ApiError: it failed, whatever was said before.
    """
    text, thoughts, calls, looked = list[str](), list[str](), list[Mapping[str, Any]](), list[dict[str, Any]]()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Text):
                text.append(event.text)
            elif isinstance(event, Thought):
                thoughts.append(event.text)
            elif isinstance(event, CalledTools):
                calls += event.calls
            elif isinstance(event, Failed):
                raise of_failure(event.kind, event.text)
            elif isinstance(event, Ended):
                return Answer(text="".join(text), thoughts="".join(thoughts), calls=tuple(calls), told=looked, ended=event)
            else:
                looked.append(told(event))
    raise of_failure("server", "the answer broke off")


def data(record: Mapping[str, Any], event: str = "") -> bytes:
    """One server-sent event. It is ASCII: some clients take U+2028 and the like for the end of a line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {_JSON(record)}\n\n".encode("ascii")


class _ClientGone(Exception):
    """Nobody is there to be sent anything."""


@dataclass(eq=False, kw_only=True)
class _Line:
    """The connection while a stream is sent."""

    send: Send
    heard: float
    """When something was last sent."""
    begun: bool = False
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def say(self, event: bytes, response: Response, *, last: bool = False) -> None:
        """Send an event, the headers before the first; nothing where the response has ended meanwhile."""
        async with self.lock:
            if self.ended:
                return
            try:
                if not self.begun:
                    self.begun = True
                    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
                    await self.send(start)
                self.heard, self.ended = asyncio.get_running_loop().time(), last
                await self.send({"type": "http.response.body", "body": event, "more_body": not last})
            except OSError:
                raise _ClientGone from None


class EventStream(Response):
    """A response of server-sent events.

    It begins with the first one; while nothing is said, comments keep the connection alive. An `ApiError` before anything was
    sent is a response of its own. When the client goes away the source is closed at once, whatever it waits for; it is run and
    closed in one task, so that timeouts and locks inside it work.

    Args:
        source: the events; of it, nothing is lost or held back.
        late: an error as an event, where the response has begun.
        every: seconds of silence after which a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AsyncGenerator[bytes],
        late: Callable[[ApiError], bytes],
        *,
        headers: Mapping[str, str] | None = None,
        every: float = KEEP_ALIVE_SECONDS,
    ):
        self.source, self.late, self.every = source, late, every
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        line = _Line(send=send, heard=clock())

        async def keep_alive() -> float:
            if clock() - line.heard >= self.every:
                with suppress(_ClientGone):
                    await line.say(KEEP_ALIVE, self)
            return line.heard + self.every - clock()

        if not await _finished(self._write(line, scope, receive), receive, keep_alive) and not line.begun:
            await _nobody(scope, receive, send)

    async def _write(self, line: _Line, scope: Scope, receive: Receive) -> None:
        async with aclosing(self.source):
            try:
                async for event in self.source:
                    await line.say(event, self)
                await line.say(b"", self, last=True)
            except _ClientGone:
                return
            except Exception as error:
                answer = of_exception(error)
                await self._fail(line, answer, scope, receive)
                if answer is not error and answer.status >= 500:
                    raise  # for the log of the server; the response is complete

    async def _fail(self, line: _Line, error: ApiError, scope: Scope, receive: Receive) -> None:
        async with line.lock:
            if not line.begun:
                line.begun = line.ended = True
                await error.response()(scope, receive, line.send)
        if not line.ended:
            with suppress(_ClientGone):
                await line.say(self.late(error), self, last=True)


class WholeAnswer(Response):
    """A response of one JSON object that is made while the client waits. When the client goes away, the making is cancelled.

    Args:
        making: the object and headers; an `ApiError` is a response of its own.
    """

    def __init__(self, making: Coroutine[Any, Any, tuple[dict[str, Any], dict[str, str]]]):
        self.making = making
        self.status_code, self.background = 200, None
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def make() -> None:
            try:
                record, headers = await self.making
            except ApiError as error:
                await error.response()(scope, receive, send)
            else:
                await JSONResponse(record, headers=headers)(scope, receive, send)

        if not await _finished(make(), receive):
            self.making.close()  # where it had not begun
            await _nobody(scope, receive, send)


async def _finished(
    work: Coroutine[Any, Any, None], receive: Receive, meanwhile: Callable[[], Awaitable[float]] | None = None
) -> bool:
    """Whether work was done before the client went away; it is cancelled then, and over when this returns.

    Args:
        meanwhile: is called now and then; it says after how many seconds again.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        while not task.done() and not gone.done():
            wait = None if meanwhile is None else max(0.0, await meanwhile())
            await asyncio.wait((task, gone), timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finished = task.done()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait((task, gone))
    if not task.cancelled():
        task.result()
    return finished


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The end of a request whose client has gone: nobody reads it, but what stands around us counts it."""
    with suppress(OSError):
        await of_failure("cancelled", "the client closed the connection").response()(scope, receive, send)
