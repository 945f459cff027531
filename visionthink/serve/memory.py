"""Memory that requests take turns to use."""

from __future__ import annotations

import asyncio
from collections import deque


class Memory:
    """Bytes that may be taken at once. Who comes first is served first, so that large requests are not passed over for ever."""

    def __init__(self, total: int):
        self.total = self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def ask(self, amount: int) -> asyncio.Future[None]:
        """What is done once `amount` is taken. Who gives up cancels it, or gives the amount back if it is done already."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._serve()
        if not turn.done():
            turn.add_done_callback(lambda turn: self._serve() if turn.cancelled() else None)  # those behind may fit
        return turn

    async def take(self, amount: int) -> None:
        """Wait until `amount` is free, and take it."""
        turn = self.ask(amount)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given in the same moment
                self.give_back(amount)
            raise

    def give_back(self, amount: int) -> None:
        self.free += amount
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.done():
                if amount > self.free:
                    return
                self.free -= amount
                turn.set_result(None)
            self._waiting.popleft()  # who has given up is passed over
