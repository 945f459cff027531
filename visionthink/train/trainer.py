"""A thin subclass of TRL's `GRPOTrainer`: our episodes take the place of `_generate`. The loss is TRL's own.

TRL hands over a step's examples and takes back token ids, loss masks and images; advantages, log-probabilities, clipping,
KL and the optimiser are TRL's (Eq. 3 of arXiv 2507.13348, see `TrainConfig.to_trl`).
"""

from __future__ import annotations

import logging
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import DistributedType
from datasets import Dataset
from PIL import Image
from transformers import ProcessorMixin, Qwen2_5_VLProcessor

from visionthink import chatml
from visionthink.errors import DataError, OptionError, StorageError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.protocol import CallError
from visionthink.rewards.judge import Judge, RulesJudge
from visionthink.rewards.rubric import Rubric
from visionthink.train.config import TrainConfig
from visionthink.train.engine import TrainerPolicy
from visionthink.train.monitors import Monitors
from visionthink.train.probe import PROBED, Probe
from visionthink.train.progress import MetricsFile, ProgressBar
from visionthink.train.rollouts import EpisodeSource, GroupSampler, Rollout, varies
from visionthink.types import Examples, ImageView, Transcript

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import GRPOTrainer

log = logging.getLogger(__name__)


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision. TRL knows a vision model by it."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        self.image_token, self.video_token, self.video_processor = chatml.IMAGE_PAD, chatml.VIDEO_PAD, None
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class VisionThinkTrainer(GRPOTrainer):
    """GRPO over episodes.

    Args:
        config: the run.
        checkpoint: what is trained.
        source: makes the episodes.
        rubric: scores the groups.
        visual_tokens: what to train on, ids of `source.examples`, with what their full views cost.

    Raises:
        OptionError: an episode may outgrow the model's context, or the way the weights are distributed cannot work with turns
            of unequal number.
    """

    def __init__(
        self,
        config: TrainConfig,
        checkpoint: Checkpoint,
        source: EpisodeSource,
        rubric: Rubric,
        visual_tokens: Mapping[str, int],
    ):
        self.config, self.checkpoint, self.example_ids, self.rollouts = config, checkpoint, list(visual_tokens), list[Rollout]()
        renderer = Renderer(checkpoint.tokenizer, source.protocol.boundary)
        largest = max(visual_tokens, key=lambda i: visual_tokens[i])
        bridge = bridge_tokens(source, renderer, visual_tokens[largest])
        _refuse_overlong(config, source, checkpoint, renderer, largest, bridge)
        super().__init__(
            model=checkpoint.model,
            reward_funcs=[self._column("accuracy"), self._column("format"), self._column("penalty", sign=-1)],
            args=config.to_trl(
                on_cpu=checkpoint.model.device.type == "cpu",
                bridge_tokens=bridge,
                never_sampled=renderer.never_sampled,
            ),
            # TRL carries the id through its own sampler; what is said is the episode's business
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": i}]} for i in self.example_ids]),
            processing_class=ImageTextProcessor(image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer),
            callbacks=[MetricsFile(config.out / "metrics.jsonl"), Monitors(config.out / "warnings.jsonl"), ProgressBar()],
            peft_config=config.peft(),
        )
        self.remove_callback(transformers.trainer_callback.PrinterCallback)
        self.tools = [self._generate]  # TRL rebuilds images from token ids, as we need it, only where there are tools
        plugin = self.accelerator.state.deepspeed_plugin
        zero_stage = plugin.zero_stage if plugin is not None else 0
        refuse_lock_step(self.accelerator.distributed_type, zero_stage, config.vllm, self.accelerator.num_processes)
        policy = TrainerPolicy(self, renderer, checkpoint.image_processor)
        probed = random.Random(config.seed).sample(self.example_ids, min(PROBED, len(self.example_ids)))
        self.probe = Probe(source, policy, rubric.judge, probed)
        self.sampler = GroupSampler(source, policy, rubric, config.group_size, forced=config.forced, exclude=config.exclusions())

    def _column(self, name: str, sign: int = 1) -> Callable[..., list[float | None]]:
        """One part of the reward, as TRL wants it. A member that was not scored gets None from every part: TRL then leaves it
        out of the group's statistics."""

        def column(**_: Any) -> list[float | None]:
            return [None if r.score.total is None else sign * getattr(r.score, name) for r in self.rollouts]

        column.__name__ = name
        return column

    def _generate(self, prompts: list) -> tuple:
        step = self.state.global_step // self.config.updates_per_step
        if self.config.probe_steps and step % self.config.probe_steps == 0:
            for name, value in self.probe.measure().items():
                self._log_metric(name, value)
        started = time.perf_counter()
        groups = self.sampler.sample([prompt[-1]["content"] for prompt in prompts[:: self.num_generations]])
        self._log_metric("zero_variance", sum(not varies(g) for g in groups) / len(groups))
        if self.config.refill:
            groups = self._refill(groups)
        self.rollouts = [rollout for group in groups for rollout in group]
        self._measure(time.perf_counter() - started)
        transcripts = self.transcripts()
        begins = [len(t.turns[0].prompt_ids) for t in transcripts]
        images = [list(rollout.images) for rollout in self.rollouts]
        return (
            [list(t.token_ids[:n]) for t, n in zip(transcripts, begins, strict=True)],
            [list(t.token_ids[n:]) for t, n in zip(transcripts, begins, strict=True)],
            [list(r.loss_mask[n:]) for r, n in zip(self.rollouts, begins, strict=True)],
            [[{"role": "assistant", "content": t.turns[-1].text}] for t in transcripts],
            [sampling_logprobs(t) for t in transcripts] if self.use_vllm else None,
            {},
            images,
            images,
        )

    def _refill(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """Replace groups that have nothing to compare by groups of other examples (as DAPO does, arXiv 2503.14476), in so many
        rounds at most; what is left after them is masked. All processes sample equally many groups, so none waits."""
        groups = list(groups)
        for attempt in range(self.config.refill):
            poor = [i for i, group in enumerate(groups) if not varies(group)]
            wanted = int(self.accelerator.gather(torch.tensor([len(poor)], device=self.accelerator.device)).max())
            if not wanted:
                break
            draw = random.Random(f"{self.args.seed} {self.state.global_step} {attempt} {self.accelerator.process_index}")
            fresh = self.sampler.sample(draw.choices(self.example_ids, k=wanted))
            for i, group in zip(poor, filter(varies, fresh), strict=False):
                groups[i] = group
        return [group if varies(group) else [rollout.masked() for rollout in group] for group in groups]

    def _measure(self, seconds: float) -> None:
        """What a person watching the run wants to see; TRL averages over processes and steps."""
        free = [r for r in self.rollouts if r.forced is None]
        transcripts = [r.transcript for r in free]
        sampled = [sum(r.transcript.loss_mask) for r in self.rollouts]

        def mean(name: str, values: Sequence[float]) -> None:
            if values:
                self._log_metric(name, sum(values) / len(values))

        mean("request_ratio", [t.requested for t in transcripts])
        for need in ("easy", "hard"):
            mean(f"request_ratio/{need}", [t.requested for t in transcripts if t.need == need])
        mean("retain_cumulative", [t.retain_cumulative for t in transcripts])
        mean("unscored", [r.score.total is None for r in self.rollouts])
        for action, requested in (("direct", False), ("request", True)):
            chosen = [r for r in self.rollouts if r.transcript.requested == requested and r.score.accuracy is not None]
            mean(f"accuracy/{action}", [r.score.accuracy or 0.0 for r in chosen])
        mean("completions/mean_length", sampled)
        mean("completions/clipped_ratio", [t.stop_reason == "length" for t in transcripts])
        mean("rollouts_per_second", [self.accelerator.num_processes * len(self.rollouts) / seconds])
        seen = torch.tensor(sum(len(r.transcript.token_ids) for r in self.rollouts), device=self.accelerator.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(seen).sum())
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers writes the hub's names of the weights and reads them back as names of modules, not strictly: for these
        # architectures nothing would be loaded, and nothing said
        model = self.model if model is None else model
        if self.is_fsdp_enabled or not isinstance(model, transformers.PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            stored = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
            model.load_state_dict(stored.state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # torch and safetensors say "disk full" each in their own way
            shutil.rmtree(folder, ignore_errors=True)
            reason = " ".join(str(error).split())[:200]
            raise StorageError(f"{folder}: the checkpoint cannot be written ({reason}); earlier ones are kept") from error

    def transcripts(self) -> list[Transcript]:
        """Of the latest step on this process, groups in order."""
        return [rollout.transcript for rollout in self.rollouts]


def sampling_logprobs(transcript: Transcript) -> list[float]:
    """Log-probabilities of the ids after the opening, 0 where nothing was sampled; what a vLLM run corrects with."""
    opening, *_ = transcript.turns
    values = [
        value
        for turn in transcript.turns
        for value in (*[0.0] * len(turn.prompt_ids), *(turn.logprobs or [0.0] * len(turn.token_ids)))
    ]
    return values[len(opening.prompt_ids) :]


def refuse_lock_step(distributed: DistributedType, zero_stage: int, vllm: str, processes: int) -> None:
    """Where all processes must generate together, one that needs another turn while its neighbour does not would wait for ever.

    Raises:
        OptionError: weights are split over processes and gathered for every turn, or every turn goes through one vLLM server.
    """
    if vllm == "off" and (distributed == DistributedType.FSDP or zero_stage == 3):
        raise OptionError(
            "weights sharded over processes (FSDP, ZeRO-3) cannot generate with transformers, "
            "because turns differ in number; use --vllm colocate, or DDP or ZeRO-2"
        )
    if vllm == "server" and processes > 1:
        raise OptionError(
            f"vllm server: {processes} processes would send their turns together, but turns differ in number; use --vllm colocate"
        )


def bridge_tokens(source: EpisodeSource, renderer: Renderer, largest: int) -> int:
    """The most ids that may stand between two turns: the largest full view in its message, or an error message."""
    if len(source.ladder.levels) == 1:
        return 0
    view = ImageView(Image.new("RGB", (1, 1)), 1.0, 1, 1, largest)
    replies = [source.protocol.tool_result(view), *(source.protocol.tool_error(reason) for reason in CallError)]
    return max(len(renderer.encode(chatml.bridge([reply], source.protocol.boundary))) for reply in replies)


def make_trainer(
    config: TrainConfig,
    examples: Examples,
    *,
    judge: Judge | None = None,
    checkpoint: Checkpoint | None = None,
) -> VisionThinkTrainer:
    """Set up a run. Examples may be a mapping from their ids that reads them when they are asked for.

    Raises:
        DataError: no example can be trained on, or one has no answer.
        OptionError: a setting that cannot work, before anything is trained.
    """
    checkpoint = config.adjusted(checkpoint or open_checkpoint(config.model))
    by_id = examples if isinstance(examples, Mapping) else {e.id: e for e in examples}
    source = EpisodeSource(by_id, config.rollout_ladder(), checkpoint.protocol, checkpoint.budget)
    usable = _usable(source)
    checkpoint.model.config._name_or_path = checkpoint.path  # TRL reloads the reference model by name
    checkpoint.model.train()
    rubric = Rubric(checkpoint.protocol, judge or RulesJudge(), config.rollout_penalty())
    return VisionThinkTrainer(config, checkpoint, source, rubric, usable)


def _usable(source: EpisodeSource) -> dict[str, int]:
    """Visual tokens of the full view of every example that has something to decide; one whose ladder collapses is left out,
    counted. Images are measured, not decoded."""
    usable, collapsed = {}, 0
    for example in source.examples.values():
        if example.answer is None:
            raise DataError(f"example {example.id}: has no answer to be rewarded for")
        sizes = source.sizes(example)
        if len(sizes) == len(source.ladder.levels):
            usable[example.id] = source.budget.visual_tokens(*sizes[-1][1:])
        else:
            collapsed += 1
    if not usable:
        raise DataError(
            f"no example to train on: {collapsed} of {len(source.examples)} cannot be asked for on the ladder {source.ladder}"
        )
    if collapsed:
        log.warning("%d examples left out: their images are too small for the ladder %s", collapsed, source.ladder)
    return usable


def _refuse_overlong(
    config: TrainConfig, source: EpisodeSource, checkpoint: Checkpoint, renderer: Renderer, largest: str, bridge: int
) -> None:
    """An episode that outgrows the model's context would end in the middle of its second image."""
    [episode] = source.episodes(largest, 1)
    turns = len(source.ladder.levels)
    longest = len(renderer.prompt_ids(episode.history)) + turns * config.max_new_tokens + (turns - 1) * bridge
    context = checkpoint.model.config.get_text_config().max_position_embeddings
    if longest > context:
        raise OptionError(
            f"max_new_tokens {config.max_new_tokens}: an episode of example {largest} may take {longest} tokens, and the model "
            f"reads {context}; lower max_new_tokens or set max_image_tokens"
        )
