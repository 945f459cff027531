"""Checkpoints in the middle of a training: all that is written is read again, or an error says of which folder it was not."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from visionthink import records
from visionthink.errors import ModelError, StorageError, one_line


class Checkpoints(transformers.Trainer):
    """Base of every trainer: it says what a checkpoint has besides the weights, and in which order it is written."""

    def write_settings(self, folder: Path) -> None:
        """Write settings of the model into a checkpoint that has been written: none here."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with naming(checkpoint):
            sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
            if checkpoint and not sharded and not (Path(checkpoint) / "optimizer.pt").is_file():
                raise FileNotFoundError("optimizer.pt is missing")  # transformers would begin a new one, and say nothing
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with naming(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the trainer's state, which is next, stands for a checkpoint that is whole

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.accelerator.is_main_process:
                self.write_settings(folder)
        except Exception as error:  # torch and safetensors say "disk full" each in their own way
            if self.accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            raise StorageError(
                f"{folder}: the checkpoint cannot be written ({one_line(error)}); earlier ones are kept"
            ) from error


_NOT_OF_A_FILE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
"""What memory, the GPU or another process is the cause of."""


@contextlib.contextmanager
def naming(checkpoint: str | None) -> Iterator[None]:
    """Readers of damaged files raise nearly anything, and seldom say of which file."""
    try:
        yield
    except _NOT_OF_A_FILE:
        raise
    except Exception as error:
        raise ModelError(f"{checkpoint}: damaged ({one_line(error)}); delete it to go on from an earlier one") from error


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the trainer's state is the last file of one."""

    def whole(folder: Path) -> bool:
        try:
            return bool(records.parse((folder / "trainer_state.json").read_bytes()))
        except (OSError, ValueError):
            return False

    return max(filter(whole, _checkpoints(out)), key=trained_updates, default=None)


def drop_torn_checkpoints(newest: Path) -> None:
    """Remove what was begun after the newest whole checkpoint of a run: transformers may go by numbers where it keeps the latest
    two, and would keep these."""
    for folder in _checkpoints(newest.parent):
        if trained_updates(folder) > trained_updates(newest):
            shutil.rmtree(folder)


def _checkpoints(out: Path) -> list[Path]:
    return [folder for folder in out.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdecimal()]


def trained_updates(checkpoint: Path) -> int:
    """Optimizer updates behind a checkpoint, by its name."""
    return int(checkpoint.name.rpartition("-")[2])
