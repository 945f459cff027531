"""The processes of a run, as accelerate sees them."""

from __future__ import annotations

import torch
from accelerate import PartialState


def this_process() -> PartialState:
    """The state of this process among those of the run; made once, with the process group, where there are several."""
    return PartialState(cpu=not torch.accelerator.is_available())
