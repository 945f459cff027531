"""The gateway as an ASGI application: its routes, and what stands before them."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from visionthink.errors import VisionThinkError
from visionthink.serve import chat
from visionthink.serve.admission import Admission, Slots
from visionthink.serve.answering import Answering
from visionthink.serve.conversation import Conversation
from visionthink.serve.document import openapi
from visionthink.serve.errors import ApiError, of_exception
from visionthink.serve.events import Event
from visionthink.serve.fetching import Fetcher, Host
from visionthink.serve.keys import Keys, RequireKey
from visionthink.serve.metrics import Metrics
from visionthink.serve.page import FOLDER, page_routes
from visionthink.serve.responses import read_responses
from visionthink.serve.responses_stream import ResponseWriter
from visionthink.serve.sources import read_source
from visionthink.serve.stages import Timed, Traces, current, stage
from visionthink.serve.streaming import Envelope, EventStream, within
from visionthink.serve.upstreams import Upstream

T = TypeVar("T")

_SMALL = 1 << 16
"""Bytes of a body that is read at once: it has no image that takes long to decode, and need not wait for one that does."""
_READY_SECONDS, _READY_KEPT = 5.0, 1.0
_OPEN = ("/", "/health", "/ready")
_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/models", "/metrics", "/health", "/ready", "/openapi.json")


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """What the routes work with.

    Args:
        image_hosts: hosts that images are fetched from; without any, images at addresses are refused.
        traces: where spans of requests are sent.

    Raises:
        OptionError: an entry of `image_hosts` is no name of a host; see `fetching.Host`.
    """

    answering: Answering
    keys: Keys | None = None
    image_hosts: Sequence[str] = ()
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces | None = None
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        for host in self.image_hosts:
            Host.parse(host)

    def app(self) -> ASGIApp:
        """The application, to be run by a server with `connections.server_options`."""
        limits = self.answering.images.limits
        slots, readiness = Slots(limits), _Readiness(self.answering.upstream)
        self.metrics.gauge("requests_running", "Requests that are being answered.", lambda: slots.running)
        self.metrics.gauge("requests_waiting", "Requests that wait for their turn.", lambda: slots.waiting)
        memory = self.answering.images.memory
        self.metrics.gauge("image_memory_bytes", "Memory of decoded images.", lambda: memory.total - memory.free)
        self.metrics.gauge("request_ratio", "Share of the last adaptive answers that took a second look.", self._request_ratio)
        files = [f"/playground/{path.relative_to(FOLDER).as_posix()}" for path in FOLDER.rglob("*") if path.is_file()]
        application = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", _health),
                Route("/ready", readiness.answer),
                Route("/metrics", self._metrics),
                Route("/openapi.json", self._document),
                *page_routes(),
            ],
            middleware=[
                Middleware(RequireKey, keys=self.keys, open_paths=[*_OPEN, *files]),
                Middleware(Timed, observe=self._observe, traces=self.traces),
                Middleware(Admission, limits=limits, slots=slots),
            ],
            exception_handlers={HTTPException: _of_starlette, VisionThinkError: _of_ours, Exception: _of_any},
            lifespan=self._running,
        )
        return self.metrics.counting(application)  # outside of Starlette, which answers unexpected exceptions itself

    @asynccontextmanager
    async def _running(self, _: Starlette) -> AsyncIterator[None]:
        images = self.answering.images
        images.fetcher = Fetcher(self.image_hosts) if self.image_hosts else None
        yield
        await self.answering.upstream.aclose()
        if images.fetcher is not None:
            await images.fetcher.close()
        images.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)

    def _observe(self, stage: str, seconds: float) -> None:
        self.metrics.stages.labels(stage).observe(seconds)

    def _request_ratio(self) -> float:
        return self.answering.savings[self.answering.rule].request_ratio or 0.0

    # ------------------------------------------------------------------------------------------------ answers

    async def _chat(self, request: Request) -> Response:
        conversation = await self._asked(request, chat.read_chat)
        envelope = Envelope.of(conversation, "chatcmpl-")
        events = self._answered(conversation, envelope, request, "chat")
        if conversation.stream:
            return self._stream(chat.chunks(events, envelope), chat.late)
        return await self._whole(chat.completion(events, envelope))

    async def _responses(self, request: Request) -> Response:
        conversation, said_again = await self._asked(request, read_responses)
        envelope = Envelope.of(conversation, "resp_")
        writer = ResponseWriter(envelope, said_again)
        events = self._answered(conversation, envelope, request, "responses")
        if conversation.stream:
            return self._stream(writer.stream(events), writer.late)
        return await self._whole(writer.whole(events))

    async def _asked(self, request: Request, read: Callable[..., T]) -> T:
        """What is asked. Nobody holds the body afterwards."""
        body = b"".join([piece async for piece in request.stream()])
        reading = functools.partial(read, body, read=self._read, headers=request.headers)
        with stage("read"):
            return reading() if len(body) < _SMALL else await self.answering.images.work(reading)

    def _stream(self, source: AsyncGenerator[bytes], late: Callable[[ApiError], bytes]) -> Response:
        return EventStream(source, late, seconds=self.answering.images.limits.response_seconds)

    async def _whole(self, making: Awaitable[tuple[dict[str, Any], dict[str, str]]]) -> Response:
        async with within(self.answering.images.limits.response_seconds):
            record, headers = await making
        return JSONResponse(record, headers=headers)

    def _read(self, url: str) -> bytes | str:
        return read_source(url, limits=self.answering.images.limits, fetched=bool(self.image_hosts))

    def _answered(self, conversation: Conversation, envelope: Envelope, request: Request, api: str) -> AsyncGenerator[Event]:
        self._known(conversation.model)
        current().model = conversation.model
        key = request.scope["state"]["key"]
        events = self.answering.answer(conversation, key=key or "")
        return self.metrics.counted(events, api=api, id=envelope.id, key=key)

    # ------------------------------------------------------------------------------------------------ the rest

    def _known(self, name: str) -> None:
        """
        Raises:
            ApiError: there is no model of this name.
        """
        served = self.answering.upstream.name
        if name != served:
            raise ApiError(
                404,
                f"model: there is no model of this name here; the one that is served is {served}",
                param="model",
                code="model_not_found",
            )

    def _record(self) -> dict[str, object]:
        return {"id": self.answering.upstream.name, "object": "model", "created": self.started, "owned_by": "visionthink"}

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._record()]})

    async def _model(self, request: Request) -> Response:
        self._known(request.path_params["name"])
        return JSONResponse(self._record())

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _document(self, _: Request) -> Response:
        return JSONResponse(openapi(self.answering.upstream.name))


class _Readiness:
    """Whether an answer can be had. Anybody may ask, so that the upstream is asked once at a time, and not again for a while."""

    def __init__(self, upstream: Upstream):
        self._upstream, self._why_not, self._until, self._asking = upstream, "", 0.0, asyncio.Lock()

    async def answer(self, _: Request) -> Response:
        async with self._asking:
            if time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(_READY_SECONDS):
                        self._why_not = await self._upstream.ready()
                except TimeoutError:
                    self._why_not = f"no reply within {_READY_SECONDS:g} s"
                self._until = time.monotonic() + _READY_KEPT
        if self._why_not:
            raise ApiError(503, f"the model cannot be reached: {self._why_not}", code="upstream_unreachable")
        return JSONResponse({"status": "ready"})


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _of_starlette(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is nothing at this path; there is {', '.join(_PATHS)}", 405: "this method is not allowed here"}
    return ApiError(error.status_code, words.get(error.status_code, error.detail), headers=error.headers).response()


async def _of_ours(_: Request, error: Exception) -> Response:
    answer = of_exception(error)
    if answer is not error and answer.status >= 500:
        raise error  # for the log of the server; the response is that of any exception
    return answer.response()


async def _of_any(_: Request, error: Exception) -> Response:
    return of_exception(error).response()
