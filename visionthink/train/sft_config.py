"""What a run of supervised fine-tuning is: one frozen record, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visionthink.errors import OptionError
from visionthink.train.settings import RunSettings

_LEAST = {
    "steps": 0,
    "batch_size": 1,
    "micro_batch": 0,
    "learning_rate": 1e-12,
    "warmup_steps": 0,
    "samples": 0,
    "max_image_tokens": 0,
    "lora_rank": 0,
    "save_steps": 1,
    "seed": 0,
}
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""Courses of the learning rate, and what transformers calls them."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(RunSettings):
    """Supervised fine-tuning on transcripts (App. C.1 and C.2 of arXiv 2507.13348)."""

    model: str = "tiny-base"
    """Model to start from: tiny, tiny-base, a checkpoint folder, or a hub id."""
    out: Path = Path("runs/sft")
    """Folder for checkpoints, metrics.jsonl and the final model."""
    demonstrations: str = ""
    """Transcripts to learn from: folders of visionthink eval, or .jsonl files, separated by commas."""
    data: str = ""
    """Examples that the transcripts are about; empty: those that the folders in `demonstrations` were evaluated on."""
    columns: str = ""
    """Names of the columns of `data` where they differ, as question=q,image=picture,answer=label."""
    image_root: str = ""
    """Folder that image paths in `data` are relative to; empty: the folder of the table."""
    judge: str = ""
    """Who decides which transcripts are right, as for visionthink train; empty: the verdicts in the files."""
    samples: int = 0
    """Largest number of demonstrations, half of them with a request; 0: as many as there are of both kinds."""
    dialect: str = ""
    """Wording in which the model asks for more; empty: the menu's, else the one stored with the checkpoint, else agent."""
    menu: str = "visionthink"
    """Named set of the views that the model could ask for when the transcripts were sampled."""
    ladder: str = ""
    """Levels of whole images, as shares of the pixels; empty: the menu's (0.25,1)."""
    max_image_tokens: int = 0
    """Largest number of visual tokens of an image; larger images are shrunk. 0: the image processor's limit."""
    steps: int = 0
    """Number of optimizer updates; 0: as many as go through all demonstrations once."""
    batch_size: int = 16
    """Number of demonstrations in an update, over all processes together."""
    micro_batch: int = 0
    """Number of demonstrations in a forward pass of each process; 0: all of an update at once."""
    learning_rate: float = 1e-5
    """AdamW learning rate."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or falling to 0 at the last step linearly or along a cosine."""
    warmup_steps: int = 0
    """Number of optimizer updates over which the learning rate rises from 0."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, more time."""
    lora_rank: int = 0
    """Rank of a LoRA adapter of the language model, saved merged and by itself; 0: train all weights."""
    seed: int = 0
    """Random seed of the choice and order of demonstrations, and of adapters."""
    save_steps: int = 100
    """Number of steps between checkpoints."""
    report_to: str = "none"
    """Also log to trackio, wandb or tensorboard; metrics.jsonl is always written."""
    resume: bool = False
    """Continue from the last checkpoint in the output folder."""

    def __post_init__(self) -> None:
        self._check_shared(_LEAST)
        if self.samples == 1:
            raise OptionError("samples 1: must be at least 2, one with a request and one without")
        if self.lr_schedule not in SCHEDULES:
            raise OptionError(f"unknown lr_schedule {self.lr_schedule!r}; choose {', '.join(SCHEDULES)}")
        self.per_process(1)

    def per_process(self, processes: int) -> int:
        """Demonstrations of an update that each of so many processes takes.

        Raises:
            OptionError: they cannot be divided so.
        """
        if self.batch_size % processes:
            raise OptionError(
                f"batch_size {self.batch_size}: cannot be divided among {processes} processes; use a multiple of {processes}"
            )
        share = self.batch_size // processes
        if share % (self.micro_batch or 1):
            each = " on each process" if processes > 1 else ""
            raise OptionError(f"{share} demonstrations of an update{each} cannot be split into passes of {self.micro_batch}")
        return share

    def rehearsed(self, out: Path, processes: int = 1) -> SftConfig:
        """One update of the same kind, as small as it gets, into another folder."""
        return self.replace(steps=1, batch_size=2 * processes, micro_batch=0, resume=False, out=out)
