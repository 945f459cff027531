"""What the processes of a run do together where the judge of one of them is down."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import gather_object


def random_streams() -> Callable[[], None]:
    """A function that brings the random numbers of this process back to where they are now, so that what was sampled in between
    can be sampled again."""
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def rewind() -> None:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return rewind


def agreed(reason: str, kept: bool) -> tuple[str, bool]:
    """The first reason that a process has, empty where none has one, and whether the first process sees what is `kept`. The same
    on all processes, each of which must call this."""
    told = gather_object([(reason, kept)])
    return next((why for why, _ in told if why), ""), told[0][1]
