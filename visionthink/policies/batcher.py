"""Single requests of many callers, put into one call of a local model.

Requests wait while a call runs; the next call takes all that wait and are sampled by one rule. Text is handed out while it is
sampled, and a row leaves its call when its reply ends or its caller has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from visionthink.errors import OptionError
from visionthink.policies.local import LocalPolicy
from visionthink.types import Completion, FinishReason, History

BATCH_WAIT_SECONDS = 0.02
"""After a call, the most that the next one waits for as many requests as were in that call and have come meanwhile: who was
answered asks again at once, and would else be answered apart from the others, call after call."""


@dataclass(eq=False, kw_only=True)
class _Request:
    """A reply that a caller waits for. What is said goes into the caller's event loop."""

    history: History
    policy: LocalPolicy
    until: Callable[[str], bool] | None
    loop: asyncio.AbstractEventLoop
    said: asyncio.Queue[str | Completion | BaseException] = field(default_factory=asyncio.Queue)
    closed: bool = False
    """Whether nobody waits any more."""
    sent: int = 0
    """Characters."""

    def take(self, text: str, tokens: int) -> FinishReason | None:
        """See `token_streams.TextCallback`. Of a reply that is sampled again, what was sent already is not sent again."""
        if len(text) > self.sent:
            self.send(text[self.sent :])
            self.sent = len(text)
        if self.closed or (self.until is not None and self.until(text)):
            return "stop"
        return "length" if tokens >= self.policy.max_new_tokens else None

    def end(self, completion: Completion) -> None:
        if completion.error is None and len(completion.text) > self.sent:
            self.send(completion.text[self.sent :])
        self.send(completion)

    def send(self, what: str | Completion | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            self.loop.call_soon_threadsafe(self.said.put_nowait, what)


class Batcher:
    """Speaks for a local model, to many callers at once.

    Args:
        policy: nobody else should keep it busy.
        batch_size: the most replies in one call; fewer where memory does not suffice.
    """

    def __init__(self, policy: LocalPolicy, *, batch_size: int = 32):
        if batch_size < 1:
            raise OptionError(f"batch_size {batch_size}: must be at least 1")
        self.policy, self.batch_size = policy, batch_size
        self.calls: Counter[int] = Counter()
        """How many calls there were with so many replies."""
        self._waiting: deque[_Request] = deque()
        self._running: Sequence[_Request] = ()
        self._expected = 0
        """How many requests may come together: as many as the last call had replies, and as waited when it ended."""
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no call has taken yet."""
        return len(self._waiting)

    async def speak(
        self, history: History, until: Callable[[str], bool] | None = None, *, policy: LocalPolicy | None = None
    ) -> AsyncGenerator[str | Completion]:
        """The reply to a conversation, see `episode.Speaker`.

        Args:
            policy: a copy of the batcher's policy with another rule of sampling, see `LocalPolicy.sampling_as`.
        """
        loop = asyncio.get_running_loop()
        request = _Request(history=list(history), policy=policy or self.policy, until=until, loop=loop)
        with self._changed:
            if self._closed:
                yield Completion.failed("cancelled", "the server is stopping")
                return
            self._waiting.append(request)
            self._changed.notify()
        try:
            while True:
                piece = await request.said.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            request.closed = True

    def close(self) -> None:
        """Take no more requests, and end those that wait or are being answered. Waits for the call that runs."""
        with self._changed:
            self._closed = True
            for request in (*self._waiting, *self._running):
                request.closed = True
                request.send(Completion.failed("cancelled", "the server is stopping"))
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._complete(batch)
            self._running, self._expected = (), min(len(batch) + len(self._waiting), self.batch_size)

    def _complete(self, batch: Sequence[_Request]) -> None:
        longest = max((request.policy for request in batch), key=lambda policy: policy.max_new_tokens)
        try:
            completions = longest.complete([request.history for request in batch], [request.take for request in batch])
        except BaseException as error:  # whoever waits has to know
            if len(batch) == 1:
                batch[0].send(error)
            else:  # the fault may be of one request alone
                for request in batch:
                    self._complete([request])
            return
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
            self._changed.wait_for(lambda: len(self._waiting) >= self._expected or self._closed, BATCH_WAIT_SECONDS)
            if not self._waiting:  # closed meanwhile
                return []
            first = self._waiting[0].policy
            batch = [request for request in self._waiting if request.policy.samples_like(first)][: self.batch_size]
            for request in batch:
                self._waiting.remove(request)
            self._running = batch
        self.calls[len(batch)] += 1
        return batch
