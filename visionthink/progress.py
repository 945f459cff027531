"""How far a long piece of work is: a bar on a terminal, and a line now and then where standard error is a file or a pipe."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines."""


class Advance(Protocol):
    """Tells how many more are done, and what else there is to say of it."""

    def __call__(self, more: int, status: str = "") -> None: ...


@contextlib.contextmanager
def stage(what: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Yields a function that is told how many more of the `total` are done.

    Writes `what` at once, the progress at least every 30 s, even while nothing finishes, and how many are done at the end; one
    line says so where all were `done` before.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(escape(what), total=total, completed=done, status="")
            yield lambda more, status="": bar.update(task, advance=more, status=escape(status))
        return
    count, said, started, over = [done], [""], time.monotonic(), threading.Event()

    def advance(more: int, status: str = "") -> None:
        count[0] += more
        said[0] = status and f": {status}"

    def now() -> None:
        _line(f"{what}: {count[0]} of {total} after {time.monotonic() - started:.0f} s{said[0]}")

    def tell() -> None:
        while not over.wait(EVERY):
            now()

    if 0 < total <= done:
        _line(f"{what}: all {total} were done before")
        yield advance
        return
    _line(f"{what}: {done} of {total}")
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield advance
        now()
    finally:
        over.set()
        teller.join()


def _line(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever read the pipe is gone, which is no reason to stop the work
        sys.stderr.write(f"{' '.join(text.split())}\n")
        sys.stderr.flush()
