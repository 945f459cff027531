"""Memory that requests take turns to use."""

from __future__ import annotations

import asyncio
from collections import deque


class Memory:
    """Bytes that may be taken at once. Who comes first is served first, so that large requests are not passed over for ever."""

    def __init__(self, total: int):
        self.total = self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int) -> None:
        """Wait until `amount` is free, and take it."""
        if amount <= self.free and not self._waiting:
            self.free -= amount
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (amount, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the same moment
                self.give_back(amount)
            else:
                self._waiting.remove(entry)
                self.give_back(0)  # those behind may fit
            raise

    def give_back(self, amount: int) -> None:
        self.free += amount
        while self._waiting and self._waiting[0][0] <= self.free:
            amount, turn = self._waiting.popleft()
            self.free -= amount
            turn.set_result(None)
