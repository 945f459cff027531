"""Runs of one thread each, as many at a time as there are cores: a model this small gains little from a second thread."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from visionthink.progress import stage

MOST_AT_ONCE = 8
"""Runs at a time at most; each takes about 2 GB."""


def processes() -> int:
    """How many run at a time: one on each core."""
    return min(os.cpu_count() or 1, MOST_AT_ONCE)


def at_once(work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], out: Path, console: Console) -> list[Any]:
    """Results of `work(*job)` in the order of the jobs, by name; what the processes have to say goes to a log file."""
    if not jobs:
        return []
    out.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(
        max_workers=min(processes(), len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(out / "log.txt",),
    )
    try:
        with stage("runs", len(jobs)) as advance:
            # processes that begin while interrupts are ignored ignore them for good: an interrupt is for this one to act on
            interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures = {pool.submit(work, *job): name for name, job in jobs.items()}
            signal.signal(signal.SIGINT, interrupts)
            for done, future in enumerate(as_completed(futures), 1):
                future.result()  # a failed run ends the reproduction; those that are done are kept
                advance(1)
                console.print(f"[dim]{done}/{len(jobs)}[/] {futures[future]}")
    except BaseException:  # nobody waits for runs whose results are not wanted any more
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _begin_process(log: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("trl").setLevel(logging.ERROR)
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed reproduction must not leave runs behind that write beside the next one's."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
