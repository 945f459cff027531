"""A thin subclass of TRL's `GRPOTrainer`, and the function that sets one up.

Overrides one private method (`_generate`, to complete the transcripts) and one public (`log`). The loss is TRL's own.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import transformers
from datasets import Dataset
from PIL import Image
from transformers import ProcessorMixin, Qwen2_5_VLProcessor

from visionthink import chatml
from visionthink.errors import DataError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.protocol import CallError
from visionthink.resolution import ResolutionLadder
from visionthink.rewards.judge import Judge, RulesJudge
from visionthink.rewards.rubric import Rubric
from visionthink.train.config import TrainConfig
from visionthink.train.environment import EpisodeSource, environment_factory, read_turn, teach_tokenizer
from visionthink.train.progress import MetricsFile, ProgressBar
from visionthink.train.rewards import GroupRewards
from visionthink.types import Completion, Example, ImageView, Transcript

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import GRPOTrainer

log = logging.getLogger(__name__)


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        self.image_token, self.video_token, self.video_processor = chatml.IMAGE_PAD, chatml.VIDEO_PAD, None
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class VisionThinkTrainer(GRPOTrainer):
    """GRPO over episodes. Build it with `make_trainer`."""

    def _generate(self, prompts: list) -> tuple:
        result = super()._generate(prompts)
        prompt_ids, completion_ids, mask = result[:3]
        for environment, prompt, ids, sampled in zip(self.environments, prompt_ids, completion_ids, mask, strict=True):
            begin = last_run(sampled)
            text, ended = read_turn(self._tokenizer, ids[begin:])
            completion = Completion(
                text,
                finish_reason="stop" if ended else "length",
                token_ids=tuple(ids[begin:]),
                prompt_ids=(*prompt, *ids[:begin]),
            )
            environment._finish(completion)
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL writes completions to parquet, which cannot mix text contents with lists of blocks
        for conversation in (*self._logs["prompt"], *self._logs["completion"]):
            for message in conversation:
                if isinstance(message.get("content"), str):
                    message["content"] = [{"type": "text", "text": message["content"]}]
                message.pop("tool_calls", None)
        super().log(logs, start_time)

    def transcripts(self) -> list[Transcript]:
        """Of the latest generation batch, groups in order."""
        return [environment.transcript for environment in self.environments or ()]


def last_run(mask: Sequence[int]) -> int:
    """Where the last turn's sampled ids begin in a completion: the index after the last 0 of the mask."""
    return next((i + 1 for i in range(len(mask) - 1, -1, -1) if not mask[i]), 0)


def make_trainer(
    config: TrainConfig, examples: Sequence[Example], *, judge: Judge | None = None, checkpoint: Checkpoint | None = None
) -> VisionThinkTrainer:
    """Set up a run.

    Raises:
        DataError: no example can be trained on.
        OptionError: a setting that cannot work, before anything is trained.
    """
    checkpoint = checkpoint or open_checkpoint(config.model)
    ladder, protocol = config.rollout_ladder(), checkpoint.protocol
    source = EpisodeSource({e.id: e for e in examples}, ladder, protocol, checkpoint.budget)
    rows, bridge_tokens = _rows(source, ladder, checkpoint)
    trl_config = config.to_trl(on_cpu=checkpoint.model.device.type == "cpu", bridge_tokens=bridge_tokens, reward_count=3)
    vocabulary = checkpoint.tokenizer.get_vocab()
    trl_config.generation_kwargs = {
        "max_new_tokens": config.max_new_tokens,
        "suppress_tokens": sorted(vocabulary[t] for t in chatml.NEVER_SAMPLED if t in vocabulary),
    }
    trl_config.chat_template_kwargs = {"boundary": protocol.boundary}
    template = chatml.template()
    teach_tokenizer(checkpoint.tokenizer, source, template)
    processor = ImageTextProcessor(
        image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer, chat_template=template
    )
    model = checkpoint.model
    model.config._name_or_path = checkpoint.path  # TRL reloads the reference model by name
    model.train()
    rewards = GroupRewards(Rubric(protocol, judge or RulesJudge(), config.rollout_penalty()), config.group_size)
    trainer = VisionThinkTrainer(
        model=model,
        reward_funcs=rewards.functions(),
        args=trl_config,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        environment_factory=environment_factory(source),
        callbacks=[MetricsFile(config.out / "metrics.jsonl"), ProgressBar()],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer


def _rows(source: EpisodeSource, ladder: ResolutionLadder, checkpoint: Checkpoint) -> tuple[list[dict[str, Any]], int]:
    """Dataset rows, and the most tokens that may stand between two turns. An example whose ladder collapses has nothing to
    decide and is left out, counted."""
    rows, collapsed, largest = [], 0, 0
    for example_id in source.examples:
        episode = source.episode(example_id)
        if len(ladder.levels) > 1 and len(episode.levels) < len(ladder.levels):
            collapsed += 1
            continue
        system = [{"role": m.role, "content": "".join(map(str, m.content))} for m in episode.opening() if m.role == "system"]
        rows.append({"prompt": [*system, {"role": "user", "content": ""}], "example_id": example_id})
        largest = max(largest, episode.visual_tokens_full)
    if not rows:
        raise DataError(
            f"no example to train on: {collapsed} of {len(source.examples)} cannot be asked for on the ladder {ladder}"
        )
    if collapsed:
        log.warning("%d examples left out: their images are too small for the ladder %s", collapsed, ladder)
    if len(ladder.levels) == 1:
        return rows, 0
    renderer = Renderer(checkpoint.tokenizer, source.protocol.boundary)
    view = ImageView(Image.new("RGB", (1, 1)), 1.0, 1, 1, largest)
    replies = [source.protocol.tool_result(view), *(source.protocol.tool_error(reason) for reason in CallError)]
    return rows, max(len(renderer.encode(chatml.bridge([reply], source.protocol.boundary))) for reply in replies)
