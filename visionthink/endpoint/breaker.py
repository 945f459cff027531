"""When an endpoint is down, and when it is worth another attempt (the circuit breaker of Nygard, Release It!, 2007)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from visionthink.endpoint.failures import Unanswered

log = logging.getLogger(__name__)

_ENOUGH = 5
"""Attempts that must have failed before an endpoint counts as down."""
_FIRST_REST, _LONGEST_REST = 30.0, 300.0
"""Seconds without an attempt."""


class Breaker:
    """Counts failures of an endpoint, from within one event loop.

    The endpoint is down when nothing but failures came from it for `patience` seconds, or for as long as a question was tried; at
    least five of them, and of two questions. From then on nothing is sent but a single attempt after a rest, which doubles from
    30 s to 5 minutes; a reply ends the outage. Failures of one request alone do not count: they show that the endpoint works.
    """

    def __init__(self, patience: float):
        self.patience = patience
        self.why = ""
        """Why the endpoint is down; empty while it is not."""
        self.outages = 0
        """How often it has been down."""
        self._failures, self._since = 0, 0.0
        self._questions: set[float] = set()
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
        self._tripped.clear()

    def failed(self, failure: Unanswered, began: float, *, first: float, over: bool) -> None:
        """An attempt has failed.

        Args:
            began: when, on the monotonic clock.
            first: when the first attempt for the same question began.
            over: whether there is no time for another one.
        """
        if not failure.by_endpoint:
            if failure.kind in ("refused", "context", "bad_request"):
                self.answered()
            return
        self._since = self._since if self._failures else began
        self._failures += 1
        self._questions.add(first)
        now = time.monotonic()
        silent = now - self._since >= self.patience or (over and self._since <= first)
        if not self.why and silent and self._failures >= _ENOUGH and len(self._questions) > 1:
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
