"""The processes of a run, and what is spread over them, as accelerate's launcher has set them up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import DeepSpeedPlugin, parse_flag_from_env


def this_process(timeout_minutes: int = 120) -> PartialState:
    """The state of this process among those of the run. It is made once, with the process group, where there are several; so the
    first call says how long a process waits for the others."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(minutes=timeout_minutes))


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What the processes of a run share of the model."""

    processes: int
    deepspeed: bool = False
    zero_stage: int = 0
    """Of DeepSpeed: 2 splits gradients and the optimizer's state, 3 the weights as well."""
    gathered: bool = True
    """Whether DeepSpeed saves whole weights at stage 3."""
    fsdp: int = 0
    """Version of FSDP, which splits the weights; 0 is none."""
    loads_once: bool = False
    """Whether under FSDP only the first process is to read the weights."""

    @property
    def sharded(self) -> bool:
        """Whether no process holds all weights."""
        return self.processes > 1 and (self.zero_stage == 3 or self.fsdp > 0)

    @property
    def masters(self) -> bool:
        """Whether weights in float32 are kept for the optimizer beside those that are computed with."""
        return self.deepspeed or (self.fsdp > 0 and self.processes > 1)


def distribution() -> Distribution:
    """Known before a model is loaded."""
    processes = this_process().num_processes
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        plugin = DeepSpeedPlugin()
        return Distribution(
            processes=processes, deepspeed=True, zero_stage=plugin.zero_stage, gathered=plugin.zero3_save_16bit_model
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return Distribution(
            processes=processes,
            fsdp=int(os.environ.get("FSDP_VERSION", "1")),
            loads_once=parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"),
        )
    return Distribution(processes=processes)
