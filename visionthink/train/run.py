"""One training run, from a configuration to a saved model."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from visionthink import records
from visionthink.addresses import is_endpoint
from visionthink.durable import lines_of_one, replace_json
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from visionthink.rewards.judge import Judge
from visionthink.rewards.spec import probe, read_judge
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import this_hardware
from visionthink.train.memory import check_memory, estimate, read_sizes
from visionthink.train.processes import this_process
from visionthink.train.progress import say
from visionthink.train.trainer import VisionThinkTrainer, make_trainer
from visionthink.types import Examples


def train(config: TrainConfig, examples: Examples, *, dry_run: bool = False, checkpoint: Checkpoint | None = None) -> Path:
    """Train and save to `config.out / "final"`; returns that folder. A dry run takes one small step and leaves nothing behind.

    Args:
        checkpoint: trained instead of the one `config.model` names.

    Raises:
        OptionError: another run is there and `resume` is not set; `resume` is set and there is no run; several GPUs are visible
            to a single process.
    """
    judge = check_run(config, dry_run=dry_run)
    if dry_run:
        say(f"asking the judge once: {config.judge}")
        probe(judge)
        with tempfile.TemporaryDirectory() as folder:
            _run(config.rehearsed(Path(folder), this_process().num_processes), examples, judge, checkpoint, intended=config)
        return config.out
    return _run(config, examples, judge, checkpoint)


def check_run(config: TrainConfig, *, dry_run: bool = False) -> Judge:
    """Check what can be checked before a model is loaded; returns the judge.

    Raises:
        OptionError: there is no such judge, the model is an endpoint, a step cannot be divided among the processes, or the run
            cannot be written to its folder or go on with what is there.
    """
    if is_endpoint(config.model):
        raise OptionError(f"--model {config.model}: is an endpoint, and training needs the weights; name a folder or a hub id")
    config.rollouts_per_process(this_process().num_processes)
    _writable(config.out)
    if not config.resume and ((config.out / "final").exists() or last_checkpoint(config.out)):
        raise OptionError(f"--out {config.out}: holds a run already; give --resume or another folder")
    if config.resume and not dry_run:
        _same_run(config, config.out / "config.json")
    return read_judge(config.judge)


def _writable(out: Path) -> None:
    """Raises before anything is computed, and creates nothing."""
    nearest = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OptionError(f"--out {out}: {nearest} is not a folder that can be written to")


def _record(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config) | {"out": str(config.out)}


def _same_run(config: TrainConfig, stored: Path) -> None:
    """A run goes on with the settings it began with; only its checkpoints may change, and its length where the learning rate does
    not depend on it."""
    try:
        before = records.parse(stored.read_bytes())
    except FileNotFoundError:
        raise OptionError(f"--resume: no run in {config.out}") from None
    except ValueError:
        raise OptionError(f"--resume: {stored} is damaged") from None
    newest = last_checkpoint(config.out)
    for name, value in json.loads(json.dumps(_record(config))).items():
        free = ("save_steps", "out", "resume", *(() if config.lr_schedule == "linear" else ("steps",)))
        if name not in free and before.get(name) != value:
            said = f"--resume: {name} was {before.get(name)!r} in {config.out} and is {value!r} now"
            if name == "steps":  # what is possible depends on what there is to begin with
                start = config.out / "final" if config.lora_rank or not newest else newest
                said += (
                    "; a linear learning rate falls to 0 over the length that a run began with: "
                    f"leave --steps {before.get(name)}, or train on from it as a new run with --model {start} and another --out; "
                    "--lr-schedule constant runs can be made longer"
                )
            raise OptionError(said)
    if newest and trained_updates(newest) > config.steps * config.updates_per_step:
        raise OptionError(f"--resume: {newest.name} of {config.out} is beyond {config.steps} steps")


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the trainer's state is the last file of one."""

    def whole(folder: Path) -> bool:
        try:
            return bool(records.parse((folder / "trainer_state.json").read_bytes()))
        except (OSError, ValueError):
            return False

    complete = [p for p in out.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal() and whole(p)]
    return max(complete, key=trained_updates, default=None)


def trained_updates(checkpoint: Path) -> int:
    """Optimiser updates behind a checkpoint, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def _run(
    config: TrainConfig, examples: Examples, judge: Judge, checkpoint: Checkpoint | None, intended: TrainConfig | None = None
) -> Path:
    """`intended` is the run a dry run stands for: it must fit the model, too."""
    torch.manual_seed(config.seed)
    # half-precision weights lose small updates; under an adapter they stand still
    half = torch.bfloat16 if config.lora_rank and torch.cuda.is_available() else torch.float32
    process = this_process()  # each process has its own device
    if torch.cuda.device_count() > 1 and process.num_processes == 1:
        raise OptionError("several GPUs and one process: use accelerate launch, or choose a GPU with CUDA_VISIBLE_DEVICES=0")
    if checkpoint is None:
        needed = estimate(intended or config, read_sizes(intended or config), this_hardware())
        if intended:
            for line in needed.lines():
                say(line)
        check_memory(needed)
        say(f"loading {config.model}")
        checkpoint = open_checkpoint(config.model, dtype=half, device=str(process.device))
    say(f"measuring the images of {len(examples)} examples")
    trainer = make_trainer(config, examples, judge=judge, checkpoint=checkpoint)
    if intended:
        trainer.longest_episode(intended)
    if not process.is_main_process:  # the processes of a run count as one; the first of them holds the lock
        return _train(config, trainer, kept=intended is None)
    with lines_of_one(config.out / ".lock", what="training run"):
        return _train(config, trainer, kept=intended is None)


def _train(config: TrainConfig, trainer: VisionThinkTrainer, *, kept: bool) -> Path:
    """`kept`: of a dry run nothing is, so that no place need be named."""
    if trainer.accelerator.is_main_process:
        replace_json(config.out / "config.json", _record(config))
    newest = last_checkpoint(config.out)
    if newest:
        done = trained_updates(newest) // config.updates_per_step
        say(f"resuming at step {done} of {config.steps}, from {newest}: weights and optimizer are read, examples passed over")
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    final = config.out / "final"
    if kept:
        say(f"saving {final}")
    # gathers what is spread over processes; an adapter is never spread, and is merged first
    state = None if config.lora_rank else trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.accelerator.is_main_process:
        return final
    model, trained = trainer.accelerator.unwrap_model(trainer.model), trainer.checkpoint
    save_checkpoint(
        final,
        model=model.merge_and_unload() if config.lora_rank else model,
        tokenizer=trained.tokenizer,
        image_processor=trained.image_processor,
        protocol=trained.protocol,
        state=state,
    )
    return final
