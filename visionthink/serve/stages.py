"""Where the time of a request goes: its stages, added up for a histogram and, where traces are sent, as spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionthink.endpoint import FURTHER_HEADERS
from visionthink.types import Completion

STAGES = ("queue", "body", "read", "files", "decode", "views", "first_piece", "upstream")
"""A place and memory are waited for; the body comes; it is read; files of images are fetched, and memory for them is waited for;
they are decoded; views are chosen and rendered; the first round has its first piece; all rounds, together."""

_ANSWERS = ("/v1/chat/completions", "/v1/responses")
Attributes = Mapping[str, str | bool | int | float | tuple[str, ...]]


class Span(Protocol):
    """A part of a trace."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that make what another server does a part of this span."""
        ...

    def child(self, name: str, *, asks: bool = False) -> Span:
        """A span within this one. `asks`: another server is asked in it."""
        ...

    def note(self, attributes: Attributes) -> None: ...

    def end(self, error: str = "") -> None:
        """It ends now. `error`: the kind of a failure."""
        ...


class Traces(Protocol):
    """Where spans of requests go; see `tracing.OtlpTraces`."""

    def request(self, path: str, headers: Mapping[str, str]) -> Span:
        """The span of a request; its headers may say which trace it belongs to."""
        ...

    def close(self) -> None:
        """Send what has not been sent yet."""
        ...


@dataclass(eq=False, kw_only=True)
class Timing:
    """The stages of one request."""

    span: Span | None = None
    model: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    failure: str = ""
    """Why there is no answer, or no rest of it."""

    def add(self, name: str, since: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - since

    def note(self, attributes: Attributes) -> None:
        """Say something of the request as a whole."""
        if self.span is not None:
            self.span.note(attributes)


_CURRENT: ContextVar[Timing | None] = ContextVar("timing", default=None)


def current() -> Timing:
    """The stages of the request that is answered here."""
    return _CURRENT.get() or Timing()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The block is a stage of the request that is answered here."""
    timing, started, error = current(), time.perf_counter(), ""
    span = timing.span.child(name) if timing.span is not None else None
    try:
        yield
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        timing.add(name, started)
        if span is not None:
            span.end(error)


class Round:
    """The block is one reply of the model. Requests to an endpoint that are made in it belong to its span."""

    def __init__(self) -> None:
        self.completion: Completion | None = None
        """What came in the end; None where it was not heard to its end."""
        self._timing, self._started = current(), time.perf_counter()
        self._timing.rounds += 1
        self._first: float | None = None
        self._span = self._timing.span.child(f"chat {self._timing.model}", asks=True) if self._timing.span else None
        if self._span is not None:
            FURTHER_HEADERS.set(self._span.headers)

    def __enter__(self) -> Round:
        return self

    def heard(self) -> None:
        """A piece has come."""
        if self._first is None:
            self._first = time.perf_counter() - self._started
            self._timing.seconds.setdefault("first_piece", self._first)

    def __exit__(self, *_: object) -> None:
        completion = self.completion
        self._timing.add("upstream", self._started)
        if self._span is None:
            return
        known: dict[str, str | int | float | tuple[str, ...] | None] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "visionthink",
            "gen_ai.request.model": self._timing.model,
            "gen_ai.response.time_to_first_chunk": self._first,
            "visionthink.round": self._timing.rounds,
        }
        if completion is not None:
            known |= {
                "gen_ai.response.finish_reasons": (completion.finish_reason,),
                "gen_ai.usage.input_tokens": completion.prompt_tokens or len(completion.prompt_ids) or None,
                "gen_ai.usage.output_tokens": completion.output_tokens or len(completion.token_ids) or None,
                "gen_ai.usage.cache_read.input_tokens": completion.cached_tokens,
                "visionthink.image_tokens": completion.visual_tokens,
            }
        self._span.note({name: value for name, value in known.items() if value is not None})
        failure = "cancelled" if completion is None else completion.error.kind if completion.error else ""
        self._span.end(failure)


class Timed:
    """Middleware: the requests behind it have stages, if they are for an answer.

    It stands behind `RequireKey`, so that nobody without a key makes spans.

    Args:
        observe: is told the seconds of each stage at the end of a request.
    """

    def __init__(self, app: ASGIApp, *, observe: Callable[[str, float], None], traces: Traces | None = None):
        self.app, self.observe, self.traces = app, observe, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _ANSWERS:
            await self.app(scope, receive, send)
            return
        timing, status = Timing(span=self._span(scope)), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        _CURRENT.set(timing)
        try:
            await self.app(scope, receive, sending)
        except Exception:
            status = status or 500
            raise
        finally:
            for name, seconds in timing.seconds.items():
                self.observe(name, seconds)
            if timing.span is not None:
                timing.span.note({"http.response.status_code": status} if status else {})
                refused = str(status) if status >= 500 else ""  # below that, it is the client's mistake
                timing.span.end(refused if status >= 400 else timing.failure)

    def _span(self, scope: Scope) -> Span | None:
        if self.traces is None:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self.traces.request(scope["path"], headers)
