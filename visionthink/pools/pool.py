"""Where work is done, as a value."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from visionthink.errors import OptionError
from visionthink.pools import local
from visionthink.pools.work import Finished, Work


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers, on this machine or on a Ray cluster.

    Raises:
        OptionError: fewer than one worker, a share of GPUs that cannot be, or Ray is not installed.
    """

    ray: bool = False
    workers: int = 1
    gpus_per_worker: float | None = None
    """The share of GPUs that each Ray actor holds. By default it is one where the cluster has GPUs; 0.5 lets two share one."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionError(f"--workers {self.workers}: must be at least 1")
        if self.gpus_per_worker is not None:
            if not self.ray:
                raise OptionError("--gpus-per-worker: is for --engine ray; processes of one machine take its GPUs in turn")
            if not 0 <= self.gpus_per_worker < 1e6 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
                raise OptionError(f"--gpus-per-worker {self.gpus_per_worker:g}: must be a share up to 1, or a whole number")
        if self.ray and importlib.util.find_spec("ray") is None:
            from visionthink.pools.ray import MISSING

            raise OptionError(MISSING)

    def check_device(self, device: str) -> None:
        """
        Raises:
            OptionError: one GPU is named by its number, while there are workers that take the GPUs in turn.
        """
        if ":" in device and (self.ray or self.workers > 1):
            raise OptionError(f"--device {device}: workers take the GPUs in turn; use cuda, and CUDA_VISIBLE_DEVICES to choose")

    def results(self, work: Work, items: Iterable[Any]) -> Iterator[Finished]:
        """Results of the items in the order in which they are finished; see `pools.local` and `pools.ray`."""
        if self.ray:
            from visionthink.pools import ray

            return ray.results(work, items, workers=self.workers, gpus_per_worker=self.gpus_per_worker)
        return local.results(work, items, workers=self.workers)
