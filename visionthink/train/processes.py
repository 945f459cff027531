"""The processes of a run, and what is spread over them, as accelerate's launcher has set them up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import DeepSpeedPlugin, broadcast_object_list, parse_flag_from_env

from visionthink.errors import VisionThinkError

T = TypeVar("T")


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
    """The ZeRO stage of DeepSpeed: 2 splits gradients and the optimizer's state, 3 the weights as well."""
    gathered: bool = True
    """Whether DeepSpeed saves whole weights at stage 3."""
    fsdp: int = 0
    """Version of FSDP, which splits the weights; 0 is none."""
    loads_once: bool = False
    """Whether under FSDP only the first process is to read the weights."""
    offloads: bool = False
    """Whether weights or the optimizer's state are kept in the machine's own memory."""

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
            processes=processes,
            deepspeed=True,
            zero_stage=plugin.zero_stage,
            gathered=plugin.zero3_save_16bit_model,
            offloads=not {plugin.offload_optimizer_device, plugin.offload_param_device} <= {None, "none"},
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return Distribution(
            processes=processes,
            fsdp=int(os.environ.get("FSDP_VERSION", "1")),
            loads_once=parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"),
            offloads=parse_flag_from_env("FSDP_OFFLOAD_PARAMS"),
        )
    return Distribution(processes=processes)


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
