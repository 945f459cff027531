"""When an endpoint is down, and when it is worth another attempt (the circuit breaker of Nygard, Release It!, 2007)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time

from visionthink.endpoint.failures import Unanswered

log = logging.getLogger(__name__)

_ENOUGH = 5
"""Attempts that must have failed before an endpoint counts as down; and questions, where these may be the cause."""
_FIRST_REST, _LONGEST_REST = 30.0, 300.0
"""Seconds without an attempt."""


class Breaker:
    """Counts failures of an endpoint, from within one event loop.

    The endpoint is down when nothing but failures came from it for `patience` seconds, or for as long as a question was tried; at
    least five of them, of five different questions, or of two where the failure would have been that of any question. The same
    question asked again is not another one. From then on nothing is sent but a single attempt after a rest, which doubles from
    30 s to 5 minutes; a reply ends the outage. A refusal for the request's own sake does, too: it shows that the endpoint works.
    """

    def __init__(self, patience: float):
        self.patience = patience
        self.why = ""
        """Why the endpoint is down; empty while it is not."""
        self.outages = 0
        """How often it has been down."""
        self._failures, self._since = 0, 0.0
        self._questions: set[int] = set()
        self._alike: set[int] = set()
        """Hashes of questions that failed, and of those that failed as any other would have."""
        self._rest, self._next = _FIRST_REST, 0.0
        self._tripped = asyncio.Event()

    def admit(self) -> None:
        """Let an attempt pass, or not.

        Raises:
            Unanswered: the endpoint is down, and its rest is not over.
        """
        if not self.why:
            return
        now = time.monotonic()
        if now < self._next:
            raise Unanswered("unreachable", self.why, final=True)
        self._next = now + self._rest
        self._rest = min(2 * self._rest, _LONGEST_REST)

    def answered(self) -> None:
        if self.why:
            log.warning("answers again after: %s", self.why)
        self.why, self._failures, self._rest = "", 0, _FIRST_REST
        self._questions.clear()
        self._alike.clear()
        self._tripped.clear()

    def failed(self, failure: Unanswered, began: float, *, first: float, over: bool, question: object) -> None:
        """An attempt has failed.

        Args:
            began: when, on the monotonic clock.
            first: when the first attempt for the same question began.
            over: whether there is no time for another one.
            question: what was asked, as JSON or what can be written as such.
        """
        if failure.cause == "request":
            if failure.kind in ("refused", "context", "bad_request"):
                self.answered()
            return
        self._since = self._since if self._failures else began
        self._failures += 1
        asked = hash(question if isinstance(question, bytes) else json.dumps(question))
        self._questions.add(asked)
        if failure.cause == "endpoint":
            self._alike.add(asked)
        now = time.monotonic()
        silent = now - self._since >= self.patience or (over and self._since <= first)
        several = len(self._alike) > 1 or len(self._questions) >= _ENOUGH
        if not self.why and silent and self._failures >= _ENOUGH and several:
            self.why = f"is down: {self._failures} failures and no reply in {now - self._since:.0f} s, the last: {failure}"
            self.outages += 1
            self._next = now + self._rest
            self._rest = min(2 * self._rest, _LONGEST_REST)
            self._tripped.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the endpoint is down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tripped.wait()
