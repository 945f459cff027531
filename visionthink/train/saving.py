"""What a run leaves behind: whole weights, wherever its processes kept them, and the adapter where one was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visionthink.policies.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from visionthink.train.config import TrainConfig
    from visionthink.train.trainer import VisionThinkTrainer

ADAPTER = "adapter"
"""Folder within the saved model."""


def save_final(trainer: VisionThinkTrainer, folder: Path) -> None:
    """Write the model, which stock transformers loads, and an adapter within its folder, which PEFT loads. Every process must
    call this.

    Raises:
        StorageError: it cannot be written.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        _write(trainer, state, folder)
    trainer.accelerator.wait_for_everyone()  # a process that ends may take the others along


def _write(trainer: VisionThinkTrainer, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    model, trained = trainer.accelerator.unwrap_model(trainer.model), trainer.checkpoint
    adapter = trainer.config.lora_rank > 0
    save_checkpoint(
        folder,
        model=model.get_base_model() if adapter else model,
        tokenizer=trained.tokenizer,
        image_processor=trained.image_processor,
        protocol=trained.protocol,
        state=merged(state, model.peft_config["default"]) if adapter else state,
        dtype=saved_dtype(trainer.config, trainer.accelerator.device),
    )
    if adapter:
        model.save_pretrained(folder / ADAPTER, state_dict=state)


def saved_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """As a GPU computed with them; what an adapter changes would be rounded away in bfloat16. None leaves weights as they are."""
    if config.lora_rank:
        return torch.float32
    return None if device.type == "cpu" else torch.bfloat16


def merged(state: Mapping[str, torch.Tensor], adapter: Any) -> dict[str, torch.Tensor]:
    """The weights of the model with an adapter added to them, in float32.

    Args:
        state: of the model that PEFT has put the adapter into.
        adapter: a `LoraConfig` without variants.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        own = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        weights[own] = value.float()
        if name.endswith(".base_layer.weight"):
            down, up = (state[name.replace("base_layer", f"lora_{part}.default")].float() for part in "AB")
            weights[own] = weights[own] + adapter.lora_alpha / adapter.r * (up @ down)
    return weights
