"""What a run leaves behind: whole weights, wherever its processes kept them, and the adapter where one was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visionthink.policies.checkpoint import save_checkpoint
from visionthink.train.precision import saved_dtype

if TYPE_CHECKING:
    from visionthink.train.checkpoints import WholeCheckpoints

ADAPTER = "adapter"
"""Folder within the saved model."""


def save_final(trainer: WholeCheckpoints, folder: Path) -> None:
    """Write the model, which stock transformers loads, and an adapter within its folder, which PEFT loads. Every process must
    call this.

    Raises:
        StorageError: it cannot be written.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        _write(trainer, state, folder)
    trainer.accelerator.wait_for_everyone()  # a process that ends may take the others along


def _write(trainer: WholeCheckpoints, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    model, trained = trainer.accelerator.unwrap_model(trainer.model), trainer.checkpoint
    adapter = trainer.config.lora_rank > 0
    save_checkpoint(
        folder,
        model=model.get_base_model() if adapter else model,
        tokenizer=trained.tokenizer,
        image_processor=trained.image_processor,
        protocol=trained.protocol,
        state=dict(merged(state, model.peft_config["default"])) if adapter else state,
        dtype=saved_dtype(trainer.config, trainer.accelerator.device),
    )
    if adapter:
        model.save_pretrained(folder / ADAPTER, state_dict=state)


def merged(state: Mapping[str, torch.Tensor], adapter: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every weight of the model with an adapter added, in float32. The weights themselves stay as they are:
    adding an adapter to them and taking it out again moves weights in bfloat16 by what is rounded off.

    Args:
        state: of the model that PEFT has put the adapter into.
        adapter: a `LoraConfig` without variants.
    """
    for name, value in state.items():
        if ".lora_" in name:
            continue
        weight = value.float()
        if name.endswith(".base_layer.weight"):
            down, up = (state[name.replace("base_layer", f"lora_{part}.default")].float() for part in "AB")
            weight = weight + adapter.lora_alpha / adapter.r * (up @ down)
        yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), weight
