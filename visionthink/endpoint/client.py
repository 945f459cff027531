"""Connections for those who ask: of the caller's own event loop, or of a loop in a thread for callers without one."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from visionthink.endpoint.connection import Connection
from visionthink.endpoint.endpoint import Endpoint

T = TypeVar("T")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, and close it."""
    try:
        loop.run_forever()
    finally:
        loop.close()


class Client:
    """A connection for callers without an event loop, from any thread: it has a loop of its own, in a thread of its own, so that
    connections and rate limits outlive a call."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._own: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connection] = weakref.WeakKeyDictionary()

    def here(self) -> Connection:
        """The connection of the event loop that is running, opened when it is asked for first; `aclose` closes it."""
        loop = asyncio.get_running_loop()
        if loop not in self._own:
            self._own[loop] = Connection(self.endpoint)
        return self._own[loop]

    async def aclose(self) -> None:
        """Close the connection of the event loop that is running. A client that is used again opens a new one."""
        connection = self._own.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.close()

    def run(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """What `work` makes of the connection."""
        if self._process != os.getpid():  # after a fork the thread is gone
            self._process, self._loop, self._connection = os.getpid(), None, None
            self._starting = threading.Lock()
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), daemon=True, name="endpoint").start()
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
