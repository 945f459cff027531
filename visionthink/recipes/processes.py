"""Runs in parallel processes of one thread each: a model this small gains little from a second thread."""

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
    """Number of parallel processes: one on each core."""
    return min(os.cpu_count() or 1, MOST_AT_ONCE)


def at_once(work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], out: Path, console: Console) -> list[Any]:
    """The results of `work(*job)` for jobs by name, in their order. The output of the processes goes to `out / "log.txt"`."""
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
            # processes that start while interrupts are ignored keep ignoring them: only this process acts on an interrupt
            interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures = {pool.submit(work, *job): name for name, job in jobs.items()}
            signal.signal(signal.SIGINT, interrupts)
            for done, future in enumerate(as_completed(futures), 1):
                future.result()  # a failed run ends all of them; the folders of finished runs are kept
                advance(1)
                console.print(f"[dim]{done}/{len(jobs)}[/] {futures[future]}")
    except BaseException:  # the results of the other runs are no longer needed
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
    """End with the parent process: the runs of a killed recipe must not go on beside those of the next one."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
