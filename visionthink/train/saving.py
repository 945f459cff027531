"""What a run leaves behind: whole weights, wherever its processes kept them, and the adapter where one was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visionthink.policies.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from visionthink.train.checkpoints import WholeCheckpoints

ADAPTER = "adapter"
"""Folder within the saved model."""


def save_final(trainer: WholeCheckpoints, folder: Path) -> None:
    """Write the model, which stock transformers loads: in bfloat16 as it computed on a GPU, and in float32 on a CPU or where an
    adapter was merged, whose changes bfloat16 would round away. Every process must call this.

    Raises:
        StorageError: it cannot be written.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    model, trained = trainer.accelerator.unwrap_model(trainer.model), trainer.checkpoint
    adapter = trainer.config.lora_rank > 0
    on_gpu = trainer.accelerator.device.type != "cpu"
    save_checkpoint(
        folder,
        model=model.get_base_model() if adapter else model,
        tokenizer=trained.tokenizer,
        image_processor=trained.image_processor,
        protocol=trained.protocol,
        state=merged(state, model.peft_config["default"]) if adapter else state,
        dtype=torch.float32 if adapter else torch.bfloat16 if on_gpu else None,
    )
    if adapter:
        model.save_pretrained(folder / ADAPTER, state_dict=state)


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
