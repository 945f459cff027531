"""One request over HTTP: the response, or what went wrong, by its name."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from visionthink.endpoint.failures import Unanswered, error_of, failed, words_of
from visionthink.endpoint.reading import MOST_BYTES, too_large
from visionthink.endpoint.streams import parse_body
from visionthink.errors import OptionError

try:
    import aiohttp as aiohttp  # for `connection` too, behind the same message
except ModuleNotFoundError as missing:
    raise OptionError(f"an endpoint needs {missing.name}: pip install 'visionthink[remote]'") from None


_AT_ONCE = 1 << 16
"""Bytes of a request that are sent at once."""
_LONGEST_REST = 86_400.0
"""Seconds that a server may ask for."""


def encoded(body: Mapping[str, Any]) -> bytes:
    """A request body as JSON; a value that is bytes is JSON already."""
    parts: list[bytes] = []
    for name, value in body.items():
        parts += (b",", json.dumps(name).encode(), b":", value if isinstance(value, bytes) else json.dumps(value).encode())
    return b"".join((b"{", *parts[1:], b"}"))


def payload(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """A request body as it is sent: a large one in pieces, between which others are served."""
    content = encoded(body)
    return io.BytesIO(content) if len(content) > _AT_ONCE else content


FAILURES = (aiohttp.ClientError, OSError, ValueError)
"""What a request raises; a timeout is an `OSError`."""


def named(error: Exception, too_late: str, *, met: bool) -> Unanswered:
    """What a request has raised, one of `FAILURES`, as the failure that it is.

    Args:
        too_late: what is said of a timeout.
        met: whether the endpoint has ever answered: where it has not, nobody may be there.
    """
    if isinstance(error, TimeoutError):
        return Unanswered("timeout", too_late)
    if isinstance(error, ValueError):
        return Unanswered("bad_request", str(error), final=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        words = f"cannot connect ({error.os_error.strerror})"
        return Unanswered("unreachable", words, cause="endpoint") if met else Unanswered("unreachable", words, final=True)
    return Unanswered("unreachable", str(error) or type(error).__name__)


@contextlib.contextmanager
def failures_named(too_late: str, *, met: bool) -> Iterator[None]:
    """What a request raises, as the failure that it is, see `named`."""
    try:
        yield
    except FAILURES as error:
        raise named(error, too_late, met=met) from None


class TimedBody:
    """The body of a response, read in pieces that each come in time.

    A reply has hundreds of them, a few milliseconds apart. The timer is therefore not set for each: when it goes off, it is set
    again for the read that goes on then.
    """

    def __init__(self, body: aiohttp.StreamReader):
        self._body, self._loop = body, asyncio.get_running_loop()
        self._until = self._due = math.inf
        """When the read that goes on has taken too long, and when that is looked at."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, seconds: float) -> bytes:
        """The next bytes; none at the end.

        Raises:
            TimeoutError: they do not come within so many seconds. Nothing can be read afterwards.
        """
        self._until = self._loop.time() + seconds
        if self._until < self._due:
            self._set_timer()
        try:
            return await self._body.readany()
        finally:
            self._until = math.inf

    def close(self) -> None:
        """Nothing is read any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self.close()
        self._due, self._timer = self._until, self._loop.call_at(self._until, self._look)

    def _look(self) -> None:
        self._due = math.inf
        if self._loop.time() >= self._until:
            self._body.set_exception(TimeoutError())
        elif self._until < math.inf:
            self._set_timer()


async def content_of(response: aiohttp.ClientResponse) -> bytes:
    """The body.

    Raises:
        Unanswered: it is too large.
    """
    content = bytearray()
    while more := await response.content.readany():
        content += more
        if len(content) > MOST_BYTES:
            raise too_large()
    return bytes(content)


def refused(response: aiohttp.ClientResponse, content: bytes, body: Mapping[str, Any], url: str) -> Unanswered:
    """What a response of another status than 200 says.

    Args:
        body: of the request; one of its fields may be the cause.
        url: the endpoint's, as it was configured.
    """
    status, headers, text = response.status, response.headers, content.decode("utf-8", "replace")
    if 300 <= status < 400:
        place = headers.get("Location") or "an address that it does not name"
        return failed(f"redirects to {place}, which is not followed; give the address that answers", status=status)
    after = _seconds(headers.get("Retry-After"))
    try:
        error = error_of(parse_body(text)) or text
        if status in (404, 405) and not urlsplit(url).path.strip("/"):
            error = f"{words_of(error)} (an address usually ends in /v1)"
        sent = [name for name in body if name not in ("model", "messages")]
        return failed(error, status=status, after=after, sent=sent)
    except (ValueError, RecursionError):  # no JSON, or too deep
        return failed(text, status=status, after=after)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds, a number or a date; a day at the most."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), _LONGEST_REST)
