"""A pool of processes on this machine. Each is given an item when it has finished the one before."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from visionthink.errors import DataError, VisionThinkError
from visionthink.pools.work import Finished, Work, Worker


def results(work: Work, items: Iterable[Any], *, workers: int) -> Iterator[Finished]:
    """Results of the items in the order in which they are finished. One worker is this process itself.

    Workers share the cores and the GPUs of the machine. They end with this process, however that ends.

    Raises:
        DataError: a worker has ended.
        VisionThinkError: whatever a worker has found wrong.
    """
    if workers == 1:
        yield from map(work(), items)
        return
    context = multiprocessing.get_context("spawn")
    waiting, busy = iter(items), dict[Connection, Any]()
    processes = []
    try:
        for settings in _settings(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, theirs, settings))
            process.start()
            theirs.close()
            processes.append(process)
            _give(ours, process, waiting, busy)
        wrong: VisionThinkError | None = None
        while busy:
            ready = wait(list(busy))
            for connection in [c for c in busy if c in ready]:
                process = busy.pop(connection)
                try:
                    found = connection.recv()
                except (EOFError, ConnectionResetError):  # the latter where an item had not been read
                    process.join()
                    found = DataError(f"a worker ended with status {process.exitcode}; run the command again to go on")
                if isinstance(found, VisionThinkError):  # the others are not given more, and what they finish is kept
                    wrong = wrong or found
                    continue
                if wrong is None:
                    _give(connection, process, waiting, busy)
                yield found
        if wrong is not None:
            raise wrong
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _give(connection: Connection, process: Any, waiting: Iterator[Any], busy: dict[Connection, Any]) -> None:
    """Give a worker the next item, where there is one. A worker that is gone is found out when its result is awaited."""
    for item in waiting:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(item)
        busy[connection] = process
        return


def _settings(workers: int) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of the cores, unless the user has said how many, and its GPU."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    threads = {} if "OMP_NUM_THREADS" in os.environ else threads
    gpus = _gpus()
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if len(gpus) > 1 else {}) for i in range(workers)]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them; none without PyTorch, as for a model behind an endpoint."""
    try:
        import torch
    except ImportError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _serve(work: Work, connection: Connection, settings: dict[str, str]) -> None:
    """A worker process: until the one that started it is gone, or ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it reaches every process; the one that started this one decides
    os.environ |= settings  # read when PyTorch is imported
    worker = Worker(work)
    try:
        while True:
            connection.send(worker(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
