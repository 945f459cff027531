"""Supervised fine-tuning on transcripts: the SFT rival and the cold start of the paper (arXiv 2507.13348, App. C.1 and C.2).

Demonstrations are replayed through our episode, so a model learns exactly the tokens it will meet. TRL's `SFTTrainer` trains.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from PIL import Image

from visionthink.episode import run_batch
from visionthink.errors import DataError, OptionError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from visionthink.policies.processor import ImageTextProcessor
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.rewards.format import format_reward
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.train.progress import MetricsFile, ProgressBar
from visionthink.train.rollouts import EpisodeSource
from visionthink.transcript import Transcript
from visionthink.types import Completion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import SFTConfig as TrlSFTConfig
    from trl import SFTTrainer


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One run of supervised fine-tuning."""

    model: str
    out: Path
    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Demonstration:
    """A transcript with all its token ids, and the views it shows, in order."""

    transcript: Transcript
    images: tuple[Image.Image, ...]


def choose(transcripts: Sequence[Transcript], source: EpisodeSource, judge: Judge, *, seed: int = 0) -> list[Transcript]:
    """Correct and well-formed transcripts, as many with a request as without (the paper's 1:1), in random order.

    Raises:
        DataError: one of the two kinds is missing.
    """
    verdicts = judge_transcripts(judge, transcripts)
    well_formed = [bool(format_reward(t, source.protocol)) for t in transcripts]
    good = [t for t, v, formed in zip(transcripts, verdicts, well_formed, strict=True) if v.verdict == "correct" and formed]
    asked, direct = [t for t in good if t.requested], [t for t in good if not t.requested]
    if not asked or not direct:
        raise DataError(f"demonstrations: {len(asked)} good transcripts with a request, {len(direct)} without; both are needed")
    order = random.Random(seed)
    n = min(len(asked), len(direct))
    chosen = [*order.sample(asked, n), *order.sample(direct, n)]
    order.shuffle(chosen)
    return chosen


def demonstrate(transcripts: Sequence[Transcript], source: EpisodeSource, renderer: Renderer) -> list[Demonstration]:
    """Replay transcripts, which may come from a file, as episodes of their examples; sampled ids are kept as they are.

    Raises:
        DataError: a transcript whose example is not there, or which does not end as it did.
    """
    demonstrations = []
    for transcript in transcripts:
        if transcript.example_id not in source.examples:
            raise DataError(f"transcript {transcript.example_id}: its example is missing")
        [episode] = source.episodes(transcript.example_id, 1)
        said = [Completion(turn.text, token_ids=turn.token_ids) for turn in transcript.turns]
        [replayed] = run_batch([episode], ScriptedPolicy(said, renderer))
        if replayed.stop_reason != transcript.stop_reason:
            raise DataError(
                f"transcript {transcript.example_id}: ended as {transcript.stop_reason}, replayed as {replayed.stop_reason}"
            )
        demonstrations.append(Demonstration(replayed, tuple(view.image for view in views(episode.history))))
    return demonstrations


def collate(batch: Sequence[Demonstration], renderer: Renderer, image_processor: Any) -> dict[str, torch.Tensor]:
    """Right-padded model inputs [batch, width] with labels, -100 where nothing was said by the model."""
    rows = [d.transcript for d in batch]
    width = max(len(t.token_ids) for t in rows)

    def padded(values: list[tuple[int, ...]], fill: int) -> torch.Tensor:
        return torch.tensor([(*row, *[fill] * (width - len(row))) for row in values])

    ids = padded([t.token_ids for t in rows], renderer.tokenizer.pad_token_id)
    pixels = image_processor(images=[image for d in batch for image in d.images], return_tensors="pt")
    return {
        "input_ids": ids,
        "attention_mask": padded([(1,) * len(t.token_ids) for t in rows], 0),
        "mm_token_type_ids": (ids == renderer.image_pad_id).long(),
        "pixel_values": pixels["pixel_values"],
        "image_grid_thw": pixels["image_grid_thw"],
        "labels": ids.masked_fill(padded([t.loss_mask for t in rows], 0) == 0, -100),
    }


def fine_tune(config: SftConfig, demonstrations: Sequence[Demonstration], *, checkpoint: Checkpoint | None = None) -> Path:
    """Train on demonstrations and save to `config.out / "final"`; returns that folder."""
    torch.manual_seed(config.seed)
    checkpoint = checkpoint or open_checkpoint(config.model, dtype=torch.float32)
    on_cpu = checkpoint.model.device.type == "cpu"
    renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)
    arguments = TrlSFTConfig(
        output_dir=str(config.out),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(20, config.steps // 5),
        weight_decay=0.0,
        seed=config.seed,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=not on_cpu,
        use_cpu=on_cpu,
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=not on_cpu,
    )
    trainer = SFTTrainer(
        model=checkpoint.model.train(),
        args=arguments,
        train_dataset=Dataset.from_list([{"index": i} for i in range(len(demonstrations))]),
        data_collator=lambda rows: collate([demonstrations[r["index"]] for r in rows], renderer, checkpoint.image_processor),
        processing_class=ImageTextProcessor(image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer),
        callbacks=[MetricsFile(config.out / "metrics.jsonl"), ProgressBar()],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    final = config.out / "final"
    if trainer.accelerator.is_main_process:
        save_checkpoint(
            final,
            model=trainer.accelerator.unwrap_model(trainer.model),
            tokenizer=checkpoint.tokenizer,
            image_processor=checkpoint.image_processor,
            protocol=checkpoint.protocol,
        )
    return final
