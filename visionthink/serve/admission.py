"""Requests are let in one by one: a place for each, a body of bounded size and time, and an end when the client leaves."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionthink.serve.errors import ApiError
from visionthink.serve.limits import Limits
from visionthink.serve.memory import Memory
from visionthink.serve.refusals import header, refuse
from visionthink.serve.stages import stage

_AHEAD = 1 << 16
"""Bytes of the body that are held of a request that waits: most bodies without images, of which one sees then that the client
leaves."""
_RETRY_SECONDS = 2


class Slots:
    """Places for requests that are answered at once: so many in all, and so many for each key. The others wait in line."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.taken: Counter[str | None] = Counter()
        self._line: deque[tuple[str | None, asyncio.Future[None]]] = deque()

    @property
    def running(self) -> int:
        return self.taken.total()

    @property
    def waiting(self) -> int:
        return len(self._line)

    def ask(self, key: str | None) -> asyncio.Future[None] | None:
        """What is done once there is a place; None where too many wait already. A place that was given is to be given back, and a
        future that is not waited for any longer to be cancelled."""
        turn = asyncio.get_running_loop().create_future()
        if self._free_for(key):
            self.taken[key] += 1
            turn.set_result(None)
            return turn
        of_key = sum(1 for holder, _ in self._line if holder == key)
        if self.waiting >= self.limits.waiting or (key is not None and of_key >= self.limits.requests_per_key):
            return None
        entry = (key, turn)
        self._line.append(entry)
        turn.add_done_callback(lambda turn: self._line.remove(entry) if turn.cancelled() else None)
        return turn

    def give_back(self, key: str | None) -> None:
        self.taken[key] -= 1
        if not self.taken[key]:
            del self.taken[key]
        for entry in tuple(self._line):  # a key that has no place left holds up nobody behind it
            holder, turn = entry
            if self.running >= self.limits.requests:
                break
            if not turn.done() and self._free_for(holder):
                self._line.remove(entry)
                self.taken[holder] += 1
                turn.set_result(None)

    def _free_for(self, key: str | None) -> bool:
        if self.running >= self.limits.requests:
            return False
        return key is None or self.taken[key] < self.limits.requests_per_key


class Admission:
    """Middleware: what stands behind it gets POST requests with a place and their whole body, in JSON, and is cancelled when the
    client leaves before the response is complete. Requests of other methods have no body and need no place.

    It stands behind `RequireKey`, which says whose request it is.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, slots: Slots | None = None):
        self.app, self.limits, self.slots = app, limits, slots or Slots(limits)
        self.bodies = Memory(limits.bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = self._refused(scope)
        if error is None and scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif error is None:
            error = await self._post(scope, receive, send)
        if error is not None:
            await refuse(error, receive, send)

    def _refused(self, scope: Scope) -> ApiError | None:
        """What the headers say."""
        length = _length(scope)
        if scope["method"] != "POST":
            has_body = length or header(scope, b"transfer-encoding")
            words = "only POST requests have a body here; leave it out"
            return ApiError(400, words, code="body_not_allowed") if has_body else None
        if (header(scope, b"content-encoding") or "identity").strip().lower() != "identity":
            return _unread("bodies that are compressed are not read; send it without Content-Encoding")
        if length and length > self.limits.body_bytes:
            return _too_large(self.limits)
        media_type, _, options = (header(scope, b"content-type") or "").lower().partition(";")
        charset = options.replace(" ", "").replace('"', "")
        if media_type.strip() != "application/json" or charset not in ("", "charset=utf-8"):
            return _unread("the body must be JSON in UTF-8; send Content-Type: application/json")
        return None

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Why the request is refused; None where it was answered, or the client has left."""
        body = _Body(receive, self.limits)
        async with AsyncExitStack() as held:
            try:
                await self._let_in(scope, body, held)
            except ApiError as refused:
                return refused
            except _Left:
                return None
            await _until_left(self.app, scope, body, send)
        return None

    async def _let_in(self, scope: Scope, body: _Body, held: AsyncExitStack) -> None:
        """Take a place and memory for the body, and read it. `held` gives back what was taken.

        Memory of a body is taken until the end of the request: its images are held as they came, beside the pixels.
        """
        key = scope.get("state", {}).get("key")
        place = self.slots.ask(key)
        if place is None:
            raise _busy("too many requests are waiting")
        with stage("queue"):
            await self._wait(place, body, held, lambda: self.slots.give_back(key))
            length = _length(scope)
            most = self.limits.body_bytes if length is None else length
            await self._wait(self.bodies.ask(most), body, held, lambda: self.bodies.give_back(most))
        with stage("body"):
            await body.read()

    async def _wait(self, turn: asyncio.Future[None], body: _Body, held: AsyncExitStack, give_back: Callable[[], None]) -> None:
        """Until it is this request's turn."""
        if turn.done():
            held.callback(give_back)
            return
        leaving = asyncio.create_task(body.read_ahead())
        try:
            try:
                await asyncio.wait({turn, leaving}, timeout=self.limits.waiting_seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                await asyncio.wait({leaving})
            failure = None if leaving.cancelled() else leaving.exception()
            if not turn.done():
                raise failure or _busy(f"no place was free within {self.limits.waiting_seconds:g} s")
        except BaseException:
            if not turn.cancel():
                give_back()
            raise
        held.callback(give_back)


class _Body:
    """The body of a request, counted while it comes."""

    def __init__(self, receive: Receive, limits: Limits):
        self.receive, self.limits = receive, limits
        self._content = bytearray()
        self._complete = False
        self._failure: Exception | None = None

    async def read(self) -> None:
        """To its end.

        Raises:
            ApiError: it is too large, or does not come in time.
            _Left: the client has left.
        """
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while not self._complete:
                    await self._take()
        except TimeoutError:
            words = f"the body did not come within {self.limits.body_seconds:g} s"
            raise ApiError(408, words, code="body_too_slow") from None

    async def read_ahead(self) -> None:
        """Read as much as may be held of a request that waits. This ends only with an exception, one of those of `read`."""
        while not self._complete and len(self._content) < _AHEAD:
            await self._take()
        if self._complete:
            await self._take()  # nothing more comes but that the client has left
        await asyncio.get_running_loop().create_future()

    async def _take(self) -> None:
        if self._failure is None:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self._failure = _Left()
            else:
                self._content += message.get("body", b"")
                self._complete = not message.get("more_body", False)
            if len(self._content) > self.limits.body_bytes:
                self._content.clear()
                self._failure = _too_large(self.limits)
        if self._failure is not None:
            raise self._failure

    def handed_over(self) -> Message:
        """What the application receives first."""
        content, self._content = bytes(self._content), bytearray()
        return {"type": "http.request", "body": content, "more_body": False}


async def _until_left(app: ASGIApp, scope: Scope, body: _Body, send: Send) -> None:
    """Run an application; it is cancelled where the client leaves before the response is complete."""
    task, left = asyncio.current_task(), asyncio.Event()
    assert task is not None
    complete = stopped = begun = False

    async def watch() -> None:
        nonlocal stopped
        while (await body.receive())["type"] != "http.disconnect":
            pass
        left.set()
        if not complete:
            stopped = True
            task.cancel()

    async def receive() -> Message:
        nonlocal begun
        if not begun:
            begun = True
            return body.handed_over()
        await left.wait()
        return {"type": "http.disconnect"}

    async def sending(message: Message) -> None:
        nonlocal complete
        complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    watching = asyncio.create_task(watch())
    try:
        await app(scope, receive, sending)
    except asyncio.CancelledError:
        if not stopped or task.cancelling() > 1:  # the server stops
            raise
    finally:
        watching.cancel()
        if stopped:
            task.uncancel()


class _Left(Exception):
    """The client has left."""


def _length(scope: Scope) -> int | None:
    """What a request says of the length of its body."""
    said = header(scope, b"content-length")
    return int(said[:20]) if said and said.isdecimal() else None


def _unread(message: str) -> ApiError:
    return ApiError(415, message, code="unsupported_media_type")


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is larger than the limit of {limits.body_bytes / 1e6:g} MB", code="body_too_large")


def _busy(message: str) -> ApiError:
    return ApiError(429, message, code="too_many_requests", headers={"Retry-After": str(_RETRY_SECONDS)})
