"""One training run, from a configuration to a saved model."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch

from visionthink.addresses import is_endpoint
from visionthink.durable import lines_of_one, replace_json, stored_settings
from visionthink.engine.checkpoints import drop_torn_checkpoints, last_checkpoint, trained_updates
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.rewards.costs import FlopsOf
from visionthink.rewards.judge import Judge
from visionthink.rewards.spec import probe, read_judge
from visionthink.train.checks import refuse_distribution
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import this_hardware
from visionthink.train.memory import check_memory, estimate
from visionthink.train.precision import loaded_dtype
from visionthink.train.processes import distribution, this_process
from visionthink.train.progress import say
from visionthink.train.run_folder import check_folder, check_same_run
from visionthink.train.saving import save_final
from visionthink.train.sizes import read_sizes
from visionthink.train.trainer import VisionThinkTrainer, make_trainer
from visionthink.train.usable import digest
from visionthink.types import Examples


def train(
    config: TrainConfig,
    examples: Examples,
    *,
    dry_run: bool = False,
    checkpoint: Checkpoint | None = None,
    flops: FlopsOf | None = None,
) -> Path:
    """Train and save to `config.out / "final"`; returns that folder. A dry run takes one small step and leaves nothing behind.

    Args:
        checkpoint: trained instead of the one `config.model` names.
        flops: what counts operations, of a budget in these.

    Raises:
        OptionError: another run is there and `resume` is not set; `resume` is set and there is no run; several GPUs are visible
            to a single process.
        JudgeError: the judge is down; what is finished is in a checkpoint.
    """
    judge = check_run(config, dry_run=dry_run)
    if dry_run:
        say(f"asking the judge once: {config.judge}")
        probe(judge)
        with tempfile.TemporaryDirectory() as folder:
            rehearsed = config.rehearsed(Path(folder), this_process().num_processes)
            _run(rehearsed, examples, judge, checkpoint, intended=config, flops=flops)
        return config.out
    return _run(config, examples, judge, checkpoint, flops=flops)


def check_run(config: TrainConfig, *, dry_run: bool = False) -> Judge:
    """Check what can be checked before a model is loaded; returns the judge.

    Raises:
        OptionError: there is no such judge, the model is an endpoint, a step cannot be divided among the processes, they are set
            up as no run can use, or the run cannot be written to its folder or go on with what is there.
    """
    if is_endpoint(config.model):
        raise OptionError(f"--model {config.model}: is an endpoint, and training needs the weights; name a folder or a hub id")
    config.rollouts_per_process(this_process(config.timeout_minutes).num_processes)
    spread = distribution()
    refuse_distribution(spread)
    if config.lora_rank and config.vllm != "off" and spread.sharded:
        raise OptionError(
            f"lora_rank {config.lora_rank}: vLLM is given weights with the adapter added, which cannot be done where weights are "
            "divided among processes; use --launch ddp or zero2, or --vllm off"
        )
    check_folder(config.out, resume=config.resume)
    if config.resume and not dry_run:
        check_same_run(config.out, _record(config), _record(TrainConfig()), updates=config.steps * config.updates_per_step)
    return read_judge(config.judge)


def _record(config: TrainConfig) -> dict[str, Any]:
    """The settings as they are stored. Names that follow from others are written out, so that the others may change."""
    return dataclasses.asdict(config) | {"out": str(config.out), "penalty": config.penalty_name}


def _run(
    config: TrainConfig,
    examples: Examples,
    judge: Judge,
    checkpoint: Checkpoint | None,
    intended: TrainConfig | None = None,
    flops: FlopsOf | None = None,
) -> Path:
    """`intended` is the run a dry run stands for: it must fit the model, too."""
    torch.manual_seed(config.seed)
    process, spread = this_process(), distribution()  # each process has its own device
    if checkpoint is None:
        needed = estimate(intended or config, read_sizes(intended or config), this_hardware())
        if intended:
            for line in needed.lines():
                say(line)
        check_memory(needed)
        say(f"loading {config.model}")
        checkpoint = open_checkpoint(
            config.model,
            dtype=loaded_dtype(config, spread, process.device),
            device=str(process.device),
            attention=config.attention,
        )
    trainer = make_trainer(config, examples, judge=judge, checkpoint=checkpoint, flops=flops)
    if intended:
        trainer.longest_episode(intended)
    if not process.is_main_process:  # the processes of a run count as one; the first of them holds the lock
        return _train(config, trainer, kept=intended is None)
    with lines_of_one(config.out / ".lock", what="training run"):
        check_folder(config.out, resume=config.resume)  # another run may have been there while this one was loading
        return _train(config, trainer, kept=intended is None)


def _train(config: TrainConfig, trainer: VisionThinkTrainer, *, kept: bool) -> Path:
    """`kept`: of a dry run nothing is, so that no place need be named."""
    if trainer.accelerator.is_main_process:
        examples = digest(trainer.example_ids)
        before = (stored_settings(config.out) or {}).get("learnt_from", examples)
        if config.resume and before != examples:
            say(
                f"the run began with other examples ({before}, and now {examples}): it will see others than if it had not stopped"
            )
        replace_json(config.out / "config.json", _record(config) | {"learnt_from": before})
    newest = last_checkpoint(config.out) if config.resume else None
    if newest:
        if trainer.accelerator.is_main_process:
            drop_torn_checkpoints(newest)
        done = trained_updates(newest) // config.updates_per_step
        say(f"resuming at step {done} of {config.steps}, from {newest}: weights and optimizer are read, examples passed over")
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    final = config.out / "final"
    if kept:
        say(f"saving {final}")
    save_final(trainer, final)
    return final
