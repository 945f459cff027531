"""Checkpoints in the middle of a run: all that is written is read again, or an error says of which folder it was not."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from visionthink.errors import ModelError, StorageError, one_line
from visionthink.policies.checkpoint import Checkpoint, save_settings
from visionthink.train.config import TrainConfig
from visionthink.train.sft_config import SftConfig


class WholeCheckpoints(transformers.Trainer):
    """For trainers of TRL: a class that names this one before them writes and reads checkpoints this way."""

    config: TrainConfig | SftConfig
    checkpoint: Checkpoint
    """What is trained."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers writes the hub's names of the weights and reads them back as names of modules, not strictly: for these
        # architectures nothing would be loaded, and nothing said
        model = self.model if model is None else model
        with _naming(resume_from_checkpoint):
            if self.is_fsdp_enabled or not isinstance(model, transformers.PreTrainedModel):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            else:
                stored = type(model).from_pretrained(
                    resume_from_checkpoint,
                    config=model.config,
                    generation_config=model.generation_config,
                    dtype=model.dtype,
                    use_safetensors=True,
                )
                model.load_state_dict(stored.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _naming(checkpoint):
            sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
            if checkpoint and not sharded and not (Path(checkpoint) / "optimizer.pt").is_file():
                raise FileNotFoundError("optimizer.pt is missing")  # transformers would begin a new one, and say nothing
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _naming(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the trainer's state, which is next, stands for a checkpoint that is whole

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.accelerator.is_main_process:
                save_settings(folder, self.checkpoint.protocol)  # a checkpoint in the middle of a run speaks like its end
        except Exception as error:  # torch and safetensors say "disk full" each in their own way
            if self.accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            raise StorageError(
                f"{folder}: the checkpoint cannot be written ({one_line(error)}); earlier ones are kept"
            ) from error

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: TRL's would call the model a fine-tuned version of no model."""


_NOT_OF_A_FILE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
"""What memory, the GPU or another process is the cause of."""


@contextlib.contextmanager
def _naming(checkpoint: str | None) -> Iterator[None]:
    """Readers of damaged files raise nearly anything, and seldom say of which file."""
    try:
        yield
    except _NOT_OF_A_FILE:
        raise
    except Exception as error:
        raise ModelError(f"{checkpoint}: damaged ({one_line(error)}); delete it to go on from an earlier one") from error
