"""Single requests of many listeners, put into one call of a local model.

Requests wait while a call runs; the next call takes all that wait and are sampled by one rule. A reply is heard while it is
sampled, and a row leaves its call when its reply ends or its listener has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from visionthink.errors import OptionError
from visionthink.policies.local import LocalPolicy
from visionthink.types import Completion, FinishReason, History

Until = Callable[[str], bool]

LINGER_SECONDS = 0.005
"""After a call with several replies, the most that the next one waits for as many again: who was answered comes back at once, and
whoever comes first would be answered alone."""


@dataclass(eq=False, kw_only=True)
class _Request:
    """A reply that somebody waits for. What is heard goes into the event loop of the one who waits."""

    history: History
    policy: LocalPolicy
    until: Until | None
    most: int
    loop: asyncio.AbstractEventLoop
    heard: asyncio.Queue[str | Completion | BaseException] = field(default_factory=asyncio.Queue)
    closed: bool = False
    """Whether nobody waits any more."""
    tokens: int = 0
    sent: int = 0
    """Characters."""

    def listen(self, text: str) -> FinishReason | None:
        """See `hearing.Listener`. Of a reply that is sampled again, because memory ran out, what is new is sent."""
        self.tokens += 1
        if len(text) > self.sent:
            self.send(text[self.sent :])
            self.sent = len(text)
        if self.closed or (self.until is not None and self.until(text)):
            return "stop"
        return "length" if self.tokens >= self.most else None

    def end(self, completion: Completion) -> None:
        if completion.error is None and len(completion.text) > self.sent:
            self.send(completion.text[self.sent :])
        self.send(completion)

    def send(self, what: str | Completion | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            self.loop.call_soon_threadsafe(self.heard.put_nowait, what)


class Batcher:
    """Speaks for a local model, to many listeners at once; see `episode.Speaker`.

    Args:
        policy: nobody else should keep it busy.
        most: replies in one call; fewer where memory does not suffice.
    """

    def __init__(self, policy: LocalPolicy, *, most: int = 32):
        if most < 1:
            raise OptionError(f"most {most}: must be at least 1")
        self.policy, self.most = policy, most
        self.calls: Counter[int] = Counter()
        """How many calls there were with so many replies."""
        self._waiting: deque[_Request] = deque()
        self._speaking: list[_Request] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no call has taken yet."""
        return len(self._waiting)

    async def speak(self, history: History, until: Until | None = None) -> AsyncGenerator[str | Completion]:
        """The reply to a conversation, by the policy's own rule of sampling."""
        async with contextlib.aclosing(self.speak_as(self.policy, history, until)) as pieces:
            async for piece in pieces:
                yield piece

    async def speak_as(
        self, policy: LocalPolicy, history: History, until: Until | None = None
    ) -> AsyncGenerator[str | Completion]:
        """The same for a copy of the policy with another rule of sampling (`LocalPolicy.sampling_as`)."""
        loop = asyncio.get_running_loop()
        request = _Request(history=list(history), policy=policy, until=until, most=policy.max_new_tokens, loop=loop)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(request)
            self._changed.notify()
        try:
            while True:
                piece = await request.heard.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            request.closed = True

    def close(self) -> None:
        """Take no more requests, and end those that wait or are being answered."""
        with self._changed:
            self._closed = True
            for request in (*self._waiting, *self._speaking):
                request.closed = True
                request.send(Completion.failed("cancelled", "the server is stopping"))
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                longest = max(batch, key=lambda request: request.most)
                completions = longest.policy.complete([r.history for r in batch], [r.listen for r in batch])
            except BaseException as error:  # whoever waits has to know
                for request in batch:
                    request.send(error)
                continue
            for request, completion in zip(batch, completions, strict=True):
                request.end(completion)

    def _next(self) -> list[_Request]:
        """Those that wait longest and are sampled alike; none when closed."""
        with self._changed:
            while True:
                self._waiting = deque(request for request in self._waiting if not request.closed)
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            self._changed.wait_for(lambda: len(self._waiting) >= len(self._speaking) or self._closed, LINGER_SECONDS)
            first = self._waiting[0].policy
            alike = [request for request in self._waiting if request.policy.samples_like(first)][: self.most]
            for request in alike:
                self._waiting.remove(request)
            self._speaking = alike
        self.calls[len(alike)] += 1
        return alike
