"""Requests to an endpoint, and everything that can go wrong on the way to it.

An attempt ends within `timeout` seconds whatever the server does, a question within `deadline`: nothing waits without a bound.
A reply that is streamed begins before the deadline and may then go on, but not pause for longer than `timeout`. Passing failures
(429, 5xx, resets, half a reply, a reply that is no JSON) are tried again after a pause that doubles, or that the server asks for,
as long as nothing was given to the caller; others are not. An endpoint from which nothing but failures comes is not asked for a
while (`breaker`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeVar

from visionthink.endpoint.breaker import Breaker
from visionthink.endpoint.completions import Completed, read_record, read_reply
from visionthink.endpoint.endpoint import Endpoint
from visionthink.endpoint.failures import Unanswered
from visionthink.endpoint.fields import STREAMED, Fields, adapted, lesson_of
from visionthink.endpoint.reading import Delta, Reading, text_of
from visionthink.endpoint.transport import FAILURES, TimedBody, aiohttp, content_of, failures_named, named, payload, refused
from visionthink.errors import OptionError

try:
    from aiolimiter import AsyncLimiter
except ModuleNotFoundError as missing:
    raise OptionError(f"an endpoint needs {missing.name}: pip install 'visionthink[remote]'") from None

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LAST_WAIT = 0.1
"""Seconds that a response may take to end after it has said that this was all; its connection is then used again."""
FURTHER_HEADERS: ContextVar[Mapping[str, str]] = ContextVar("further_headers", default=MappingProxyType({}))
"""Headers of the requests that are made in a context, beside those of the endpoint: the trace that they are a part of."""


class Connection:
    """Requests to an endpoint, from within one event loop. It counts them.

    Where nothing but failures has come for as long as a question may take, the endpoint is down, and questions fail at once.
    """

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self.requests = self.retries = 0
        self.answered = False
        """Whether the endpoint has ever answered."""
        self.slots = asyncio.Semaphore(endpoint.concurrency)
        self.trying = asyncio.Lock()
        """Held by whoever finds out whether the endpoint works, before all questions are sent."""
        self.breaker = Breaker(endpoint.deadline)
        self._only_model = ""
        self._fields = Fields(endpoint.url)
        # one at a time: a bucket that starts full would let through twice as many in its first minute
        self._rate = AsyncLimiter(1, 60 / endpoint.requests_per_minute) if endpoint.requests_per_minute else None
        # idle connections are dropped before servers drop theirs (at 5 s), else the next request may meet a closed one
        connector = aiohttp.TCPConnector(limit=endpoint.concurrency, keepalive_timeout=2)
        self._session = aiohttp.ClientSession(connector=connector, headers=endpoint.headers, proxy=endpoint.proxy)

    @property
    def working(self) -> bool:
        """Whether the endpoint has answered before, and is not down."""
        return self.answered and not self.breaker.why

    async def close(self) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """Names of what the endpoint serves.

        Raises:
            Unanswered: it does not say.
        """

        async def ask(left: float) -> Any:
            return read_record(await self._attempt("GET", "/models", None, left))

        record = await self._persist(ask, time.monotonic() + self.endpoint.deadline)
        listed = record.get("data") if isinstance(record, dict) else record
        served = [m.get("id") for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        return [name for name in served if isinstance(name, str)]

    async def only_model(self) -> str:
        """The name of the only model that is served, for which the endpoint is asked once.

        Raises:
            OptionError: there are several or none, or the endpoint does not say.
        """
        if self._only_model:
            return self._only_model
        try:
            served = await self.models()
        except Unanswered as failure:
            raise OptionError(f"{self.endpoint.url}: {failure}") from failure
        if len(served) != 1:
            raise OptionError(f"{self.endpoint.url}: serves {', '.join(served) or 'no model'}; name one as URL#MODEL")
        self._only_model = served[0]
        return self._only_model

    @contextlib.asynccontextmanager
    async def slot(self, end: float) -> AsyncIterator[None]:
        """One of the requests at once, in its turn by the rate limit.

        Raises:
            Unanswered: there is none before `end` on the monotonic clock.
        """
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    await held.enter_async_context(self.slots)
                    await self.turn()
            except TimeoutError:
                words = f"all {self.endpoint.concurrency} requests at once were taken until the deadline"
                raise Unanswered("timeout", words, final=True) from None
            yield

    async def turn(self) -> None:
        """Wait for what the rate limit allows."""
        if self._rate:
            await self._rate.acquire()

    async def complete(self, body: Mapping[str, Any], end: float) -> Completed:
        """The reply to a request body of chat completions, before `end` on the monotonic clock.

        A field that is bytes holds JSON already: messages with images are encoded once, whatever is tried again. A server that
        wants `max_tokens` under its newer name gets it so from then on, and one that refuses `logprobs` is not asked for them
        (see `fields`).

        Raises:
            Unanswered: there is none.
        """

        async def ask(sent: Mapping[str, Any], left: float) -> Completed:
            return read_reply(await self._attempt("POST", "/chat/completions", sent, left))

        return await self._accepted(body, end, ask)

    async def stream(self, body: Mapping[str, Any], end: float) -> AsyncGenerator[Delta | Completed]:
        """What the reply to a request body says as it comes, and at last the whole, as `complete` gives it.

        Its first piece comes before `end`. It is tried again only while nothing has come. Closing the generator closes the
        connection.

        Raises:
            Unanswered: there is no reply, or it was broken off.
        """
        began = time.monotonic()
        first, reply = await self._accepted({**body, **STREAMED}, end, self._begun)
        try:
            yield first
            async for item in reply:
                yield item
        except Unanswered as failure:
            self.breaker.failed(failure, began, first=began, over=False, question=body.get("messages"))
            raise
        finally:
            await reply.aclose()

    async def _begun(self, body: Mapping[str, Any], left: float) -> tuple[Delta | Completed, AsyncGenerator[Delta | Completed]]:
        """What a reply says first, and the rest of it."""
        reply = self._reply(body, left)
        return await anext(reply), reply

    async def _reply(self, body: Mapping[str, Any], left: float) -> AsyncGenerator[Delta | Completed]:
        end, reading = time.monotonic() + left, Reading()
        async with self._within(left):
            response = await self._request("POST", "/chat/completions", body)
        timed = TimedBody(response.content)
        try:
            if response.status != 200:
                async with self._within(left):
                    raise refused(response, await content_of(response), body, self.endpoint.url)
            spoken, patience = False, self.endpoint.timeout
            while not reading.ended:
                asked, before = time.monotonic(), reading.records
                data = await _more(timed, reading, patience if spoken else min(patience, end - asked))
                if not data:
                    break
                for delta in reading.feed(data):
                    spoken = True
                    yield delta
                if not spoken or reading.records > before:
                    patience = self.endpoint.timeout
                else:  # comments keep a connection open and say nothing
                    patience -= time.monotonic() - asked
            if reading.ended:
                with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                    async with asyncio.timeout(_LAST_WAIT):
                        while await response.content.readany():
                            pass
            for item in reading.finish(response.charset):
                yield item
        finally:
            timed.close()
            response.close()

    async def _accepted(self, body: Mapping[str, Any], end: float, ask: Callable[[Mapping[str, Any], float], Awaitable[T]]) -> T:
        """What comes of a request, in the form in which the endpoint takes it."""
        learned = self._fields.known(body)
        while True:
            sent = adapted(body, learned)
            try:
                found = await self._persist(functools.partial(ask, sent), end, question=body.get("messages"))
            except Unanswered as failure:
                lesson = lesson_of(failure)
                if not lesson.keys() & sent.keys():
                    raise
                learned |= lesson
            else:
                self._fields.keep(body, learned)
                return found
            await self.turn()

    async def _persist(self, ask: Callable[[float], Awaitable[T]], end: float, *, question: object = None) -> T:
        """Try until there is an answer, the deadline, or a failure that stays. `question`: the messages, where there are any."""
        pause, first = _FIRST_PAUSE, math.inf
        while True:
            self.breaker.admit()
            began = time.monotonic()
            first = min(first, began)
            try:
                found = await ask(end - began)
                self.answered = True
                self.breaker.answered()
                return found
            except Unanswered as failure:
                wait = max(pause * random.uniform(0.5, 1.0), failure.after or 0.0)
                over = time.monotonic() + wait >= end
                self.breaker.failed(failure, began, first=first, over=over, question=question)
                if failure.final or over or self.breaker.why:
                    raise
                self.retries += 1
                await self.breaker.pause(wait)
                await self.turn()
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attempt(self, method: str, path: str, body: Mapping[str, Any] | None, left: float) -> str:
        """The text of a whole response."""
        async with self._within(left):
            response = await self._request(method, path, body)
            async with response:
                content = await content_of(response)
        if response.status != 200:
            raise refused(response, content, body or {}, self.endpoint.url)
        return text_of(content, response.charset)

    @contextlib.asynccontextmanager
    async def _within(self, left: float) -> AsyncIterator[None]:
        """The time of an attempt, in which failures are named."""
        if left <= 0:
            raise Unanswered("timeout", "no time left before the deadline", final=True)
        seconds = min(self.endpoint.timeout, left)
        with failures_named(f"no reply within {seconds:.0f} s", met=self.answered):
            async with asyncio.timeout(seconds):
                yield

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> aiohttp.ClientResponse:
        self.requests += 1
        return await self._session.request(
            method,
            self.endpoint.address(path),
            data=None if body is None else payload(body),
            headers={**FURTHER_HEADERS.get(), **({"Content-Type": "application/json"} if body is not None else {})},
            params=self.endpoint.query,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(None),
        )


async def _more(body: TimedBody, reading: Reading, seconds: float) -> bytes:
    """The next bytes of a body; none at its end, or where the reply is whole and nothing more comes."""
    try:
        return await body.read(seconds)
    except FAILURES as error:
        if reading.finished:
            return b""
        raise named(error, f"nothing more within {max(0.0, seconds):.0f} s", met=True) from None
