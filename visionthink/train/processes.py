"""The processes of a run, as accelerate sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from visionthink.errors import VisionThinkError

T = TypeVar("T")


def this_process() -> PartialState:
    """The state of this process among those of the run; made once, with the process group, where there are several."""
    return PartialState(cpu=not torch.accelerator.is_available())


def of_the_first(make: Callable[[], T]) -> T:
    """What the first process makes, on all of them: work that costs money or may come out differently is done once.

    Raises:
        VisionThinkError: as `make` does, on every process, so that none waits for the others.
    """
    made: list[Any] = [None]
    if this_process().is_main_process:
        try:
            made = [make()]
        except VisionThinkError as error:
            made = [error]
    broadcast_object_list(made)
    if isinstance(made[0], VisionThinkError):
        raise made[0]
    result: T = made[0]
    return result
