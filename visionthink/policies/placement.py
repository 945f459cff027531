"""Where a model of this machine is put, and the type of its weights: the names of both, and what they need."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from visionthink.errors import OptionError, choose_from

if TYPE_CHECKING:
    import torch

AUTO = "auto"
"""A GPU where there is one; weights in float32 on a CPU, and as they are stored elsewhere."""
META = "meta"
"""The device of a model without weights, which workers run; no option of the command line takes it."""
DTYPES = (AUTO, "float32", "bfloat16", "float16")


def check_device(name: str) -> None:
    """
    Raises:
        OptionError: it is none of the names of devices.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise OptionError(f"unknown device {name!r}; choose from auto, cpu, cuda, cuda:N")


def check_placement(device: str, dtype: torch.dtype | str, *, runner: str = "transformers") -> None:
    """Whether a model can be put there as far as names go. `runner`: what runs the model.

    Raises:
        OptionError: there is no such device or type, or the runner, vllm or an endpoint, chooses it itself.
    """
    if device != META:
        check_device(device)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise OptionError(f"unknown dtype {dtype!r}; {choose_from(dtype, DTYPES)}")
    if device != AUTO and runner != "transformers":
        raise OptionError(f"device {device}: is for a model that transformers runs; {runner} has its own")
    if dtype != AUTO and runner not in ("transformers", "vllm"):
        raise OptionError(f"dtype {dtype}: is for a model of this machine; {runner} has its own")


def chosen_device(device: str) -> str:
    """The device that a name stands for on this machine.

    Raises:
        OptionError: it is a GPU that PyTorch does not see here.
    """
    import torch

    count = torch.cuda.device_count()
    if device == AUTO:
        return "cuda" if count else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        build = "" if torch.version.cuda or torch.version.hip else f", as torch {torch.__version__} is built for CPUs"
        seen = f"sees {count} GPUs, counted from 0" if count else f"sees no GPU{build}"
        raise OptionError(f"device {device}: PyTorch {seen}; use auto or cpu, or see visionthink doctor")
    return device
