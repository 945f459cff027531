"""Pictures of a step, opened by several threads: those of the next step while the model works on this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from visionthink.picture import Picture
from visionthink.types import Example

MOST_BYTES = 768 << 20
"""Bytes of pixels that are held for the next step: 76 pictures of 2048x1024 px with their low views."""
THREADS = min(4, os.cpu_count() or 1)
"""Pillow lets other threads run while it decodes and scales."""

Opened = tuple[Example, tuple[Picture, ...]]


class OpenedPictures:
    """Examples with their pictures, each opened once however often it is asked for, until they are dropped.

    Args:
        open_example: reads an example and opens its pictures; called by several threads.
        most_bytes: of pixels that are held, beyond which nothing more is opened ahead.
    """

    def __init__(self, open_example: Callable[[str], Opened], *, most_bytes: int = MOST_BYTES):
        self._open, self._most_bytes = open_example, most_bytes
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self._changing = threading.Lock()
        self._held: dict[str, Future[Opened | None]] = {}
        self._limited, self.bytes_held = False, 0

    def begin(self, example_ids: Sequence[str], *, ahead: bool = False) -> None:
        """Have examples opened, and return at once. `ahead` is for later, as far as there is room."""
        with self._changing:
            self._limited = ahead
            for example_id in example_ids:
                if example_id not in self._held:
                    self._held[example_id] = self._pool.submit(self._opened, example_id)

    def get(self, example_id: str) -> Opened:
        """An example and its pictures.

        Raises:
            InputError: it cannot be read, as it is raised where nothing is opened ahead.
        """
        self.begin([example_id])
        opened = self._held[example_id].result()
        assert opened is not None  # while nothing is limited, nothing is left out
        return opened

    @property
    def pending(self) -> bool:
        """Whether some are still being opened."""
        with self._changing:
            return not all(future.done() for future in self._held.values())

    def drop(self) -> None:
        """Let go of all of them."""
        with self._changing:
            for future in self._held.values():
                future.cancel()
            self._held.clear()
            self.bytes_held = 0

    def _opened(self, example_id: str) -> Opened | None:
        with self._changing:
            if self._limited and self.bytes_held >= self._most_bytes:
                del self._held[example_id]  # it is opened when it is needed
                return None
        opened = self._open(example_id)
        with self._changing:
            if example_id in self._held:
                self.bytes_held += sum(picture.bytes_held for picture in opened[1])
        return opened
