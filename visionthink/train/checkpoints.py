"""Checkpoints of a whole model in the middle of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from visionthink.engine.checkpoints import Checkpoints, naming
from visionthink.policies.checkpoint import Checkpoint, save_settings
from visionthink.train.config import TrainConfig
from visionthink.train.sft_config import SftConfig


class WholeCheckpoints(Checkpoints):
    """For trainers of TRL: a class that names this one before them writes and reads checkpoints this way."""

    config: TrainConfig | SftConfig
    checkpoint: Checkpoint
    """What is trained."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers writes the hub's names of the weights and reads them back as names of modules, not strictly: for these
        # architectures nothing would be loaded, and nothing said
        model = self.model if model is None else model
        with naming(resume_from_checkpoint):
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

    def write_settings(self, folder: Path) -> None:
        save_settings(folder, self.checkpoint.protocol)  # a checkpoint in the middle of a run speaks like its end

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: TRL's would call the model a fine-tuned version of no model."""
