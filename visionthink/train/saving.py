"""Saving a trained model: weights gathered from all processes, an adapter merged in float32 and kept beside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator

from visionthink.errors import OptionError, StorageError, one_line
from visionthink.policies.checkpoint import Checkpoint, save_checkpoint

_PREFIX, _LAYER = "base_model.model.", ".base_layer."
"""What peft puts before the names of a model's weights, and into those of the layers that have an adapter."""


def check_can_be_saved(accelerator: Accelerator) -> None:
    """Before training, which would be lost otherwise.

    Raises:
        OptionError: ZeRO-3 was not told to gather the weights for saving.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return
    if not plugin.deepspeed_config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise OptionError("ZeRO-3: set zero3_save_16bit_model: true in the file of accelerate; the model could not be saved")


def save_final(trainer: transformers.Trainer, checkpoint: Checkpoint, folder: Path) -> None:
    """Write what was trained to `folder`, as a whole model. An adapter is written beside it, to `adapter/`, too.

    Every process calls this. Under ZeRO-3 and FSDP the weights are gathered on the first one, which writes.

    Raises:
        StorageError: it cannot be written.
    """
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model)
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(trainer.model)
    adapted = getattr(model, "peft_config", None)
    if adapted:
        _save_adapter(folder.with_name("adapter"), model, state)
        [scale] = {config.lora_alpha / config.r for config in adapted.values()}
        state, model = _merged(state, scale), model.get_base_model()
    save_checkpoint(
        folder,
        model=model,
        tokenizer=checkpoint.tokenizer,
        image_processor=checkpoint.image_processor,
        protocol=checkpoint.protocol,
        state=state,
        dtype=torch.float32 if adapted else None,
    )


def _merged(state: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The weights of a model with an adapter as those of one without, in float32: bfloat16 has 8 bits, and an adapter trained with
    a small rate changes a weight by less than the last of them."""
    merged = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        whole = weight.float()
        if _LAYER in name and name.endswith("weight"):
            down, up = (state[name.replace(_LAYER, f".lora_{part}.default.")].float() for part in "AB")
            whole = whole + scale * (up @ down)
        merged[name.removeprefix(_PREFIX).replace(_LAYER, ".")] = whole.cpu()
    return merged


def _save_adapter(folder: Path, model: transformers.PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial, state_dict=state)
        (partial / "README.md").unlink(missing_ok=True)  # peft's template of a model card
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except Exception as error:  # torch and safetensors say "disk full" each in their own way
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{folder}: cannot be written ({one_line(error)})") from error
