"""One endpoint that speaks OpenAI's chat completions, and everything that can go wrong on the way to it.

An attempt ends within `timeout` seconds whatever the server does, a question within `deadline`: nothing waits without a bound.
Passing failures (429, 5xx, resets, half a reply, a reply that is no JSON) are tried again after a pause that doubles, or that
the server asks for; others are not. An endpoint from which nothing but failures comes is not asked for a while (`breaker`).
What a reply says is read in `completions`.
"""

from __future__ import annotations

import asyncio
import atexit
import email.utils
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from visionthink.endpoint.breaker import Breaker
from visionthink.endpoint.completions import Completed, read_record, read_reply
from visionthink.endpoint.failures import Unanswered, error_of, failed, short, words_of
from visionthink.endpoint.streams import decoded, parse_body
from visionthink.errors import OptionError

try:
    import aiohttp
    from aiolimiter import AsyncLimiter
except ModuleNotFoundError as missing:
    raise OptionError(f"an endpoint needs {missing.name}: pip install 'visionthink[remote]'") from None

T = TypeVar("T")
log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and how much may be asked of it.

    `key_env` names the environment variable that holds the key; "" sends none. `key_header` is `api-key` on Azure, whose URLs
    also need `query = {"api-version": ...}`. Seconds throughout.
    """

    url: str
    _: KW_ONLY
    model: str = ""
    """Empty: the only one the endpoint serves."""
    key_env: str = ""
    key_header: str = "Authorization"
    query: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    """Requests at once, of each process that asks."""
    requests_per_minute: float = 0
    """0: no limit."""
    timeout: float = 60
    deadline: float = 180

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"endpoint {self.url!r}: not an http address")
        if parts.username or parts.password:
            raise OptionError(
                "endpoint: its url holds a password; put the key into an environment variable and name it in key_env"
            )
        for name in ("concurrency", "timeout", "deadline"):
            if not 0 < getattr(self, name) < 1e6:
                raise OptionError(f"endpoint {self.url}: {name} {getattr(self, name)}: must be above 0")
        if self.requests_per_minute < 0:
            raise OptionError(f"endpoint {self.url}: requests_per_minute {self.requests_per_minute}: must be at least 0")
        if self.key_env and not os.environ.get(self.key_env):
            raise OptionError(f"endpoint {self.url}: the environment variable {self.key_env} is not set")

    def address(self, path: str) -> str:
        """The address of one of its services; a query in the address stays behind it."""
        parts = urlsplit(self.url)
        before = parts.path.rstrip("/").removesuffix("/chat/completions")
        return parts._replace(path=before + path, fragment="").geturl()

    @property
    def headers(self) -> dict[str, str]:
        if not self.key_env:
            return {}
        key = os.environ[self.key_env]
        return {self.key_header: f"Bearer {key}" if self.key_header == "Authorization" else key}


class Client:
    """A connection for callers without an event loop, from any thread: it has a loop of its own, in a thread of its own, so that
    connections and rate limits outlive a call."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None

    def run(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """What `work` makes of the connection."""
        if self._process != os.getpid():  # after a fork the thread is gone
            self._process, self._loop, self._connection = os.getpid(), None, None
            self._starting = threading.Lock()
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="endpoint").start()
                atexit.register(self.close)
            running = asyncio.run_coroutine_threadsafe(self._connected(work), self._loop)
        try:
            return running.result()
        finally:
            running.cancel()  # when interrupted; without effect on one that is done

    @property
    def down(self) -> str:
        """Why the endpoint is not asked for the time being; empty while it is."""
        connection = self._connection  # another thread may close it
        return connection.breaker.why if connection is not None else ""

    @property
    def outages(self) -> int:
        """How often the endpoint has been down."""
        connection = self._connection
        return connection.breaker.outages if connection is not None else 0

    async def _connected(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        if self._connection is None:
            self._connection = Connection(self.endpoint)
        return await work(self._connection)

    def close(self) -> None:
        """Close connections. A client that is used again opens new ones."""
        if self._loop is None:
            return
        atexit.unregister(self.close)
        if self._connection is not None:
            asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop = self._connection = None


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
        self._newer_name = False
        # one at a time: a bucket that starts full would let through twice as many in its first minute
        self._rate = AsyncLimiter(1, 60 / endpoint.requests_per_minute) if endpoint.requests_per_minute else None
        # idle connections are dropped before servers drop theirs (at 5 s), else the next request may meet a closed one
        connector = aiohttp.TCPConnector(limit=endpoint.concurrency, keepalive_timeout=2)
        self._session = aiohttp.ClientSession(connector=connector, headers=endpoint.headers, trust_env=True)

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
        record = await self._persist("GET", "/models", None, time.monotonic() + self.endpoint.deadline, read_record)
        listed = record.get("data") if isinstance(record, dict) else record
        served = [m.get("id") for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        return [name for name in served if isinstance(name, str)]

    async def only_model(self) -> str:
        """The name of the only model that is served.

        Raises:
            OptionError: there are several or none, or the endpoint does not say.
        """
        try:
            served = await self.models()
        except Unanswered as failure:
            raise OptionError(f"{self.endpoint.url}: {failure}") from None
        if len(served) != 1:
            raise OptionError(f"{self.endpoint.url}: serves {', '.join(served) or 'no model'}; name one as URL#MODEL")
        return served[0]

    async def turn(self) -> None:
        """Wait for what the rate limit allows."""
        if self._rate:
            await self._rate.acquire()

    async def complete(self, body: Mapping[str, Any], end: float) -> Completed:
        """The reply to a request body of chat completions, before `end` on the monotonic clock.

        A server that wants `max_tokens` under its newer name gets it so from then on.

        Raises:
            Unanswered: there is none.
        """
        try:
            return await self._persist("POST", "/chat/completions", self._named(body), end, read_reply)
        except Unanswered as failure:
            if failure.parameter != "max_tokens" or "max_completion_tokens" not in str(failure):
                raise
            if not self._newer_name:
                log.warning("%s: max_tokens is sent as max_completion_tokens, as the server asks for", self.endpoint.url)
            self._newer_name = True
        await self.turn()
        return await self._persist("POST", "/chat/completions", self._named(body), end, read_reply)

    def _named(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._newer_name or "max_completion_tokens" in body:
            return body
        return {"max_completion_tokens" if name == "max_tokens" else name: value for name, value in body.items()}

    async def _persist(self, method: str, path: str, body: Mapping[str, Any] | None, end: float, read: Callable[[str], T]) -> T:
        """Try until there is an answer, the deadline, or a failure that stays."""
        pause, first = _FIRST_PAUSE, math.inf
        while True:
            self.breaker.admit()
            began = time.monotonic()
            first = min(first, began)
            try:
                found = read(await self._attempt(method, path, body, end - began))
                self.answered = True
                self.breaker.answered()
                return found
            except Unanswered as failure:
                wait = max(pause * random.uniform(0.5, 1.0), failure.after or 0.0)
                over = time.monotonic() + wait >= end
                self.breaker.failed(failure, began, first=first, over=over)
                if failure.final or over or self.breaker.why:
                    raise
                self.retries += 1
                await self.breaker.pause(wait)
                await self.turn()
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attempt(self, method: str, path: str, body: Mapping[str, Any] | None, left: float) -> str:
        if left <= 0:
            raise Unanswered("timeout", "no time left before the deadline", final=True)
        self.requests += 1
        url, seconds = self.endpoint.address(path), min(self.endpoint.timeout, left)
        try:
            async with asyncio.timeout(seconds):
                request = self._session.request(
                    method, url, json=body, params=self.endpoint.query, allow_redirects=False, timeout=aiohttp.ClientTimeout(None)
                )
                async with request as response:
                    content = await response.content.read(_MOST_BYTES + 1)
                    while len(content) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES + 1 - len(content))):
                        content += more
        except TimeoutError:
            raise Unanswered("timeout", f"no reply within {seconds:.0f} s") from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise Unanswered("bad_request", str(error), final=True) from None
        except (aiohttp.ClientError, OSError) as error:
            nobody = isinstance(error, aiohttp.ClientConnectorError) and not self.answered
            said = f"cannot connect ({error.os_error.strerror})" if isinstance(error, aiohttp.ClientConnectorError) else error
            raise Unanswered("unreachable", f"{said or type(error).__name__}", final=nobody) from None
        if len(content) > _MOST_BYTES:
            raise Unanswered("server", "the reply is larger than 1 MB", final=True)
        if response.status != 200:
            raise self._refused(response.status, response.headers, content.decode("utf-8", "replace"), body or {})
        try:
            return decoded(content, response.charset)
        except (ValueError, LookupError) as error:
            raise Unanswered("server", short(f"the reply is no text in its encoding: {error}"), final=True) from None

    def _refused(self, status: int, headers: Mapping[str, str], text: str, body: Mapping[str, Any]) -> Unanswered:
        if 300 <= status < 400:
            place = headers.get("Location") or "an address that it does not name"
            return failed(f"redirects to {place}, which is not followed; give the address that answers", status=status)
        after = _seconds(headers.get("Retry-After"))
        try:
            error = error_of(parse_body(text)) or text
            if status in (404, 405) and not urlsplit(self.endpoint.url).path.strip("/"):
                error = f"{words_of(error)} (an address usually ends in /v1)"
            sent = [name for name in body if name not in ("model", "messages")]
            return failed(error, status=status, after=after, sent=sent)
        except (ValueError, RecursionError):  # no JSON, or too deep
            return failed(text, status=status, after=after)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds: a number, or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
