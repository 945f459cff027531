"""One training run, from a configuration to a saved model."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.train.config import TrainConfig
from visionthink.train.trainer import make_trainer
from visionthink.types import Example

log = logging.getLogger(__name__)


def train(config: TrainConfig, examples: Sequence[Example], *, dry_run: bool = False) -> Path:
    """Train and save to `config.out / "final"`; returns that folder.

    Raises:
        OptionError: the output folder holds another run and `resume` is not set, or there is nothing to resume.
    """
    final = config.out / "final"
    if dry_run:
        config = config.replace(steps=1, save_steps=10**9)
    elif not config.resume and (config.out / "metrics.jsonl").exists():
        raise OptionError(f"--out {config.out}: holds a run already; give --resume or another folder")
    if config.resume and not any(config.out.glob("checkpoint-*")):
        raise OptionError(f"--resume: no checkpoint in {config.out}")
    torch.manual_seed(config.seed)
    checkpoint = open_checkpoint(config.model)
    trainer = make_trainer(config, examples, checkpoint=checkpoint)
    if not dry_run:
        record = dataclasses.asdict(config) | {"out": str(config.out)}
        (config.out / "config.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    trainer.train(resume_from_checkpoint=config.resume or None)
    if not dry_run:
        save_checkpoint(
            final,
            model=trainer.accelerator.unwrap_model(trainer.model),
            tokenizer=checkpoint.tokenizer,
            image_processor=checkpoint.image_processor,
            protocol=checkpoint.protocol,
            dtype=torch.float16 if checkpoint.model.device.type == "cpu" else None,
        )
    return final
