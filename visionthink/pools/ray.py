"""A pool of Ray actors behind Ray Data: on this machine, or on the cluster that RAY_ADDRESS names.

An item is a block of its own, so that its result is handed over when it is there and not when a block is full. Ray starts an
actor again that was lost, with its node or alone, and gives the item to another one meanwhile. Nothing is written by the actors:
results come back to the process that asked, which needs no file system in common with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import visionthink
from visionthink.errors import DataError, OptionError, VisionThinkError, one_line
from visionthink.pools.work import Finished, Work, Worker

_TRIES = 5
"""How often an item is given to an actor again after it was lost: an item that ends its process would end all of them."""
MISSING = "--engine ray: Ray Data is not installed; pip install 'visionthink[ray]'"


def results(work: Work, items: Iterable[Any], *, workers: int, gpus_per_worker: float | None = None) -> Iterator[Finished]:
    """Results of the items in the order in which they are finished.

    Args:
        gpus_per_worker: default is one where the cluster has GPUs, else none.

    Raises:
        OptionError: Ray is not installed or cannot be started, or there is no cluster at RAY_ADDRESS.
        DataError: an actor failed, or an item ended it again and again.
        VisionThinkError: whatever a worker has found wrong.
    """
    blocks = [{"item": pickle.dumps(item)} for item in items]
    if not blocks:
        return
    ray, data = _connected(workers)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    share = float(has_gpus) if gpus_per_worker is None else gpus_per_worker
    _say_what_is_missing(ray, workers, share)
    with warnings.catch_warnings(action="ignore"):  # the number of tries has no other place before Ray 2.64
        mapped = data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            _Actor,
            batch_size=1,
            fn_constructor_args=(ray.cloudpickle.dumps(work), os.getcwd()),
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_gpus=share or None,
            max_task_retries=_TRIES,
        )
    found: Finished | VisionThinkError
    with contextlib.redirect_stdout(sys.stderr):  # where Ray says what becomes of workers; stdout is for results
        try:
            for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for cell in batch.column("result"):
                    found = pickle.loads(cell.as_py())
                    if isinstance(found, VisionThinkError):
                        raise found
                    yield found
        except ray.exceptions.RayError as error:
            said = one_line(error, end=True)
            raise DataError(f"--engine ray: a worker failed; run the command again to go on: {said}") from error


class _Actor:
    """What Ray Data calls with a block of one item."""

    def __init__(self, work: bytes, folder: str):
        with contextlib.suppress(OSError):  # names of files mean the same here, where the folder is shared or on one machine
            os.chdir(folder)
        self._worker = Worker(pickle.loads(work))

    def __call__(self, block: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._worker(pickle.loads(item))) for item in block["item"]]}


def _connected(workers: int) -> tuple[Any, Any]:
    """`ray` and `ray.data`, once this process belongs to a cluster: that of RAY_ADDRESS, else one of its own.

    The package is sent to the nodes, so that they run what this process runs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every pool of actors that may be started again
    try:
        import ray
        import ray.data
    except ImportError:
        raise OptionError(MISSING) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it has to say of a failure is in the exception
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    if ray.is_initialized():
        return ray, ray.data
    address = os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address:  # workers that wait for an endpoint may be more than there are cores
        settings |= {"address": "local", "include_dashboard": False, "num_cpus": max(workers, os.cpu_count() or 1)}
    try:
        ray.init(runtime_env={"py_modules": [visionthink]}, **settings)
    except Exception as error:  # of many kinds; where a machine is busy, a start that took too long is a bare Exception
        where = f"RAY_ADDRESS {address}: no cluster is there" if address else "--engine ray: Ray cannot be started here"
        raise OptionError(f"{where} ({one_line(error)})") from error
    return ray, ray.data


def _check_reachable(address: str | None) -> None:
    """Ray itself would try for minutes.

    Raises:
        OptionError: nothing listens at the address of a cluster.
    """
    host, colon, port = (address or "").rpartition("//")[2].rpartition(":")
    if not colon or not port.isdecimal():  # "auto", or none
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise OptionError(f"RAY_ADDRESS {address}: no cluster is there ({one_line(error)})") from None


def _say_what_is_missing(ray: Any, workers: int, share: float) -> None:
    """A cluster may grow, so that work is not refused; a line says what it waits for."""
    there = ray.cluster_resources()
    for name, needed in (("GPU", workers * share), ("CPU", float(workers) if not share else 0)):
        if needed > there.get(name, 0):
            sys.stderr.write(
                f"{workers} workers need {needed:g} {name}s and the cluster has {there.get(name, 0):g}: "
                "the others start when it has grown\n"
            )
