"""In which precision weights are read and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from visionthink.train.processes import Distribution

if TYPE_CHECKING:
    from visionthink.train.config import TrainConfig
    from visionthink.train.sft_config import SftConfig


def loaded_dtype(config: TrainConfig | SftConfig, spread: Distribution, device: torch.device) -> torch.dtype:
    """Half-precision weights lose small updates: they are for models that stand still under an adapter, and for those of which
    DeepSpeed or FSDP makes a copy in float32 to update, each process a part of it."""
    half = device.type != "cpu" and (config.lora_rank > 0 or spread.masters)
    return torch.bfloat16 if half else torch.float32


def saved_dtype(config: TrainConfig | SftConfig, device: torch.device) -> torch.dtype | None:
    """As a GPU computed with them; what an adapter changes would be rounded away in bfloat16. None leaves weights as they are."""
    if config.lora_rank:
        return torch.float32
    return None if device.type == "cpu" else torch.bfloat16
