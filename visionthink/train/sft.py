"""Supervised fine-tuning on transcripts: the baseline and the cold start of the paper (arXiv 2507.13348, App. C.1 and C.2).

TRL's `SFTTrainer` trains. The loss of an update is a mean over all tokens that its demonstrations say, however they are divided
among processes and passes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

from visionthink.addresses import is_endpoint
from visionthink.durable import lines_of_one, replace_json
from visionthink.engine.checkpoints import last_checkpoint, trained_updates
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.processor import ImageTextProcessor
from visionthink.policies.render import Renderer
from visionthink.train.checkpoints import WholeCheckpoints
from visionthink.train.checks import refuse_distribution
from visionthink.train.demonstrations import Demonstrations, collate
from visionthink.train.precision import loaded_dtype
from visionthink.train.processes import distribution, this_process
from visionthink.train.progress import MetricsFile, ProgressBar, say
from visionthink.train.rollouts import training_order
from visionthink.train.run_folder import check_folder, check_same_run
from visionthink.train.saving import save_final
from visionthink.train.sft_config import SCHEDULES, SftConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import SFTConfig as TrlSFTConfig
    from trl import SFTTrainer


class SupervisedTrainer(WholeCheckpoints, SFTTrainer):
    """TRL's, over demonstrations."""

    config: SftConfig

    def __init__(self, config: SftConfig, demonstrations: Demonstrations, checkpoint: Checkpoint):
        self.config, self.checkpoint = config, checkpoint
        renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)
        arguments = _arguments(config, on_cpu=checkpoint.model.device.type == "cpu")
        # what an update learns from follows from the seed and its number alone, whatever the number of processes
        order = training_order(range(len(demonstrations)), config.steps * config.batch_size, seed=config.seed, shuffle=True)
        super().__init__(
            model=checkpoint.model.train(),
            args=arguments,
            train_dataset=Dataset.from_dict({"index": order}),
            data_collator=lambda rows: collate(
                [demonstrations[row["index"]] for row in rows], renderer, checkpoint.image_processor
            ),
            processing_class=ImageTextProcessor(image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer),
            callbacks=[MetricsFile(config.out / "metrics.jsonl"), ProgressBar()],
            peft_config=config.peft(),
        )
        # Qwen-VL classes say that their own loss takes no count of tokens. TRL's, which is used, does; without it the passes and
        # processes of an update would count equally, however many tokens they have
        self.model_accepts_loss_kwargs = True
        self.remove_callback(transformers.trainer_callback.PrinterCallback)


def _arguments(config: SftConfig, *, on_cpu: bool) -> TrlSFTConfig:
    share = config.per_process(this_process().num_processes)
    micro = config.micro_batch or share
    return TrlSFTConfig(
        output_dir=str(config.out),
        max_steps=config.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,  # every demonstration has an image
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.lr_schedule],
        warmup_steps=config.warmup_steps,
        max_grad_norm=1.0,
        weight_decay=0.0,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to=config.report_to,
        project="visionthink",
        run_name=config.out.name,
        disable_tqdm=True,  # our own progress bar
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=not on_cpu,
        use_cpu=on_cpu,
        gradient_checkpointing=config.gradient_checkpointing,
        dataloader_pin_memory=not on_cpu,
    )


def fine_tune(
    config: SftConfig,
    demonstrations: Demonstrations,
    *,
    dry_run: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Path:
    """Train on demonstrations and save to `config.out / "final"`; returns that folder. A dry run takes one small step and leaves
    nothing behind.

    Args:
        checkpoint: trained instead of the one `config.model` names.

    Raises:
        OptionError: see `check_run`; also, several GPUs are visible to a single process.
    """
    config = config.replace(steps=config.steps or math.ceil(len(demonstrations) / config.batch_size))
    if dry_run:
        check_run(config, dry_run=True)
        with tempfile.TemporaryDirectory() as folder:
            small = config.rehearsed(Path(folder), this_process().num_processes)
            _run(small, demonstrations, checkpoint, kept=False)
        return config.out
    check_run(config)
    if config.resume:
        check_same_run(config.out, _record(config, demonstrations), _record(SftConfig(), demonstrations), updates=config.steps)
    say(f"{len(demonstrations)} demonstrations, {config.steps} updates of {config.batch_size}")
    return _run(config, demonstrations, checkpoint, kept=True)


def check_run(config: SftConfig, *, dry_run: bool = False) -> None:
    """Check what can be checked before demonstrations are read and a model is loaded.

    Raises:
        OptionError: the model is an endpoint, an update cannot be divided among the processes, or the run cannot be written to
            its folder or go on with what is there.
    """
    if is_endpoint(config.model):
        raise OptionError(f"--model {config.model}: is an endpoint, and training needs the weights; name a folder or a hub id")
    config.per_process(this_process().num_processes)
    refuse_distribution(distribution())
    check_folder(config.out, resume=config.resume)
    if config.resume and not dry_run and not (config.out / "config.json").exists():
        raise OptionError(f"--resume: no run in {config.out}")


def _record(config: SftConfig, demonstrations: Demonstrations) -> dict[str, Any]:
    """What is stored of a run: its settings, and a digest of what it learns from."""
    said = repr([(t.example_id, [turn.text for turn in t.turns]) for t in demonstrations.transcripts])
    digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return dataclasses.asdict(config) | {"out": str(config.out), "learnt_from": digest}


def _run(config: SftConfig, demonstrations: Demonstrations, checkpoint: Checkpoint | None, *, kept: bool) -> Path:
    """`kept`: of a dry run nothing is, so that no place need be named."""
    torch.manual_seed(config.seed)
    process = this_process()  # each process has its own device
    if checkpoint is None:
        say(f"loading {config.model}")
        dtype = loaded_dtype(config, distribution(), process.device)
        checkpoint = open_checkpoint(config.model, dtype=dtype, device=str(process.device))
    trainer = SupervisedTrainer(config, demonstrations, config.adjusted(checkpoint))
    if not process.is_main_process:  # the processes of a run count as one; the first of them holds the lock
        return _train(config, trainer, kept=kept)
    with lines_of_one(config.out / ".lock", what="training run"):
        check_folder(config.out, resume=config.resume)  # another run may have been there while this one was loading
        replace_json(config.out / "config.json", _record(config, demonstrations))
        return _train(config, trainer, kept=kept)


def _train(config: SftConfig, trainer: SupervisedTrainer, *, kept: bool) -> Path:
    newest = last_checkpoint(config.out) if config.resume else None
    if newest:
        say(f"resuming at step {trained_updates(newest)} of {config.steps}, from {newest}: weights and optimizer are read")
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    final = config.out / "final"
    if kept:
        say(f"saving {final}")
    save_final(trainer, final)
    return final
