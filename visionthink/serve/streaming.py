"""What answers of both APIs have in common on their way to a client: the whole of one, and a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
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
        """The envelope of a new answer; its id begins with `chatcmpl-` or `resp_`."""
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


async def complete(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The events of an answer, up to `Ended`.

    Raises:
        ApiError: it failed or broke off, whatever was said before.
    """
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Failed):
                raise of_failure(event.kind, event.text, event.after)
            yield event
            if isinstance(event, Ended):
                return
    raise of_failure("server", "the answer broke off")


async def collected(events: AsyncGenerator[Event]) -> Answer:
    """All of an answer.

    Raises:
        ApiError: see `complete`.
    """
    text, thoughts, calls, looked = list[str](), list[str](), list[Mapping[str, Any]](), list[dict[str, Any]]()
    async with aclosing(complete(events)) as whole:
        async for event in whole:
            if isinstance(event, Text):
                text.append(event.text)
            elif isinstance(event, Thought):
                thoughts.append(event.text)
            elif isinstance(event, CalledTools):
                calls += event.calls
            elif isinstance(event, Looked | Decided):
                looked.append(told(event))
            elif isinstance(event, Ended):
                ended = event
    return Answer(text="".join(text), thoughts="".join(thoughts), calls=tuple(calls), told=looked, ended=ended)


def data(record: Mapping[str, Any], event: str = "") -> bytes:
    """One server-sent event. It is ASCII: some clients take U+2028 and the like for the end of a line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {_JSON(record)}\n\n".encode("ascii")


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """
    Raises:
        ApiError: the block takes longer.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise ApiError(504, f"the answer was not complete within {seconds:g} s", code="answer_too_slow") from None


@dataclass(eq=False, kw_only=True)
class _Line:
    """The connection while a stream is sent."""

    response: Response
    send: Send
    heard: float
    """When something was last sent."""
    begun: bool = False
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def say(self, event: bytes, *, last: bool = False) -> None:
        """Send an event, the headers before the first; nothing where the response has ended meanwhile."""
        async with self.lock:
            if self.ended:
                return
            if not self.begun:
                self.begun = True
                status, headers = self.response.status_code, self.response.raw_headers
                await self.send({"type": "http.response.start", "status": status, "headers": headers})
            self.heard, self.ended = asyncio.get_running_loop().time(), last
            await self.send({"type": "http.response.body", "body": event, "more_body": not last})

    async def keep_alive(self, every: float) -> None:
        """Say a comment after so many seconds of silence; has no end."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(0.0, self.heard + every - clock()))
            if clock() - self.heard >= every:
                await self.say(KEEP_ALIVE)


class EventStream(Response):
    """A response of server-sent events.

    It begins with the first one; while nothing is said, comments keep the connection alive. What is raised before anything was
    sent is raised, and has a response of its own; afterwards it is the last event. The source is run and closed in one task, the
    one that the response is sent in, so that timeouts and locks inside it work. A client that goes away is not seen here:
    `Admission` cancels the task.

    Args:
        source: the events; of it, nothing is lost or held back.
        late: an error as an event, where the response has begun.
        every: seconds of silence after which a comment is sent.
        seconds: after which the source is closed, however slowly the client reads.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AsyncGenerator[bytes],
        late: Callable[[ApiError], bytes],
        *,
        every: float = KEEP_ALIVE_SECONDS,
        seconds: float = 600.0,
    ):
        self.source, self.late, self.every, self.seconds = source, late, every, seconds
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = _Line(response=self, send=send, heard=asyncio.get_running_loop().time())
        keeping = asyncio.create_task(line.keep_alive(self.every))
        try:
            async with within(self.seconds), aclosing(self.source):
                async for event in self.source:
                    await line.say(event)
            await line.say(b"", last=True)
        except Exception as error:
            if not line.begun:
                line.ended = True  # no comment may come in between
                raise
            answer = of_exception(error)
            await line.say(self.late(answer), last=True)
            if answer is not error and answer.status >= 500:
                raise  # for the log of the server; the response is complete
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
