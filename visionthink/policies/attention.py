"""Which implementation of attention a model runs with: names, and what each of them needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionthink.errors import OptionError, choose_from

if TYPE_CHECKING:
    import torch

ATTENTION = ("sdpa", "flash_attention_2", "eager")
"""Names of attention implementations in transformers. The default is flash attention if it can be used, otherwise sdpa."""


def check_attention(attention: str, *, runner: str = "transformers") -> None:
    """Whether a model can be asked to run with it; an empty name leaves the choice to us. `runner`: what runs the model.

    Raises:
        OptionError: there is no implementation of that name, or the runner has its own.
    """
    if attention and attention not in ATTENTION:
        raise OptionError(f"unknown attention {attention!r}; {choose_from(attention, ATTENTION)}")
    if attention and runner != "transformers":
        raise OptionError(f"attention {attention}: is for a model that transformers runs; {runner} has its own")


def chosen_attention(attention: str, *, device: str, dtype: torch.dtype | str | None) -> str:
    """The implementation for a model on that device with weights of that type; None: of a type that is not known yet.

    Raises:
        OptionError: the one that was asked for is unknown, is not installed, or cannot be used there.
    """
    check_attention(attention)
    if attention not in ("", "flash_attention_2"):
        return attention
    hindrance = what_hinders_flash(device, dtype, from_hub=bool(attention))
    if attention and hindrance:
        raise OptionError(f"attention {attention}: {hindrance}; or use sdpa")
    return "sdpa" if hindrance else "flash_attention_2"


def what_hinders_flash(device: str, dtype: torch.dtype | str | None, *, from_hub: bool) -> str:
    """Why flash attention cannot be used; empty where it can. `from_hub`: a kernel that is not installed may be downloaded."""
    import torch
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    place = torch.device(device)
    if place.type != "cuda":
        return f"needs an NVIDIA GPU, and the model is on the {device}"
    kind = str(dtype).removeprefix("torch.") if dtype else "of a type that config.json does not say"
    if kind not in ("bfloat16", "float16"):
        return f"needs weights in bfloat16 or float16, and these are {kind}"
    if not is_flash_attn_2_available() and not (from_hub and is_kernels_available()):
        return "is not installed; pip install flash-attn"
    if torch.cuda.get_device_capability(place)[0] < 8:
        return f"needs a GPU of compute capability 8.0 or above, and {device} is an older one"
    return ""
