"""Generation that all processes must take part in: weights are gathered for it (FSDP, ZeRO-3), or one engine serves them all.

Episodes differ in their number of turns, and calls to `generate` must not. So before each call the processes agree whether any
of them still has a prompt, and one that has none takes a padding turn, whose completion is thrown away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from visionthink.episode import Episode, OnEnd, Policy, RunBatch, run_batch
from visionthink.policies.render import Renderer
from visionthink.resolution import PixelBudget
from visionthink.train.policy import Sample, TrainerPolicy
from visionthink.train.processes import distribution
from visionthink.transcript import Transcript
from visionthink.types import Completion, History, ImageView, Message, whole

if TYPE_CHECKING:
    from trl import GRPOTrainer


def policy_of(
    trainer: GRPOTrainer, renderer: Renderer, image_processor: Any, budget: PixelBudget
) -> tuple[TrainerPolicy, RunBatch]:
    """The policy of a trainer, and what drives its episodes."""
    arguments, spread = trainer.args, distribution()
    if not trainer.use_vllm:
        together = spread.sharded
    elif trainer.vllm_mode == "server":
        together = spread.processes > 1
    else:  # an engine that slept is given the weights anew, which are gathered for it
        together = arguments.vllm_tensor_parallel_size > 1 or (arguments.vllm_enable_sleep_mode and spread.sharded)
    if not together:
        return TrainerPolicy(trainer, renderer, image_processor, budget), run_batch
    policy = TogetherPolicy(trainer, renderer, image_processor, budget)
    return policy, policy.run_batch


class TogetherPolicy(TrainerPolicy):
    """Samples like `TrainerPolicy`, with as many calls to `generate` on every process. Episodes are driven by its `run_batch`."""

    def __init__(self, trainer: GRPOTrainer, renderer: Renderer, image_processor: Any, budget: PixelBudget):
        super().__init__(trainer, renderer, image_processor, budget)
        # transformers would go on decoding until every process has ended, but knows only the FSDP that it has applied itself
        model = trainer.accelerator.unwrap_model(trainer.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base._is_fsdp_managed_module = distribution().fsdp > 0
        self._padding = padding(budget)
        # an answer that is already said: what is sampled after it is the end of the turn
        self._padding_ids = [*renderer.prompt_ids(self._padding), *renderer.plain("Yes")]

    def run_batch(self, episodes: Sequence[Episode], policy: Policy, on_end: OnEnd | None = None) -> list[Transcript]:
        """The same as `episode.run_batch`, for this policy or one around it; it returns when no process has a live episode."""
        transcripts = run_batch(episodes, policy, on_end)
        while most := self._most(0):
            self._padded(most, [], [])
        return transcripts

    def _sample(self, prompts: list[list[int]], histories: list[History]) -> list[Completion]:
        return self._padded(self._most(len(prompts)), prompts, histories)

    def _padded(self, most: int, prompts: list[list[int]], histories: list[History]) -> list[Completion]:
        """vLLM takes equally many prompts from each process; transformers needs one, with an image, so that each part of the
        model is called on each process."""
        missing = most - len(prompts) if self.trainer.use_vllm else not prompts
        short = contextlib.nullcontext() if prompts or self.trainer.use_vllm else self._generation(max_new_tokens=1)
        with short:
            said = super()._sample([*prompts, *[self._padding_ids] * missing], [*histories, *[self._padding] * missing])
        return said[: len(prompts)]

    def _halving(self, sample: Sample) -> Sample:
        return sample  # a process that tried again would generate alone

    def _most(self, prompts: int) -> int:
        """The most prompts that any process has."""
        mine = torch.tensor([prompts], device=self.trainer.accelerator.device)
        return int(self.trainer.accelerator.gather(mine).max())


def padding(budget: PixelBudget) -> History:
    """A short prompt with the smallest image."""
    width, height = budget.fit(budget.factor, budget.factor)
    view = ImageView(
        image=Image.new("RGB", (width, height)),
        box=whole(width, height),
        level=1.0,
        width=width,
        height=height,
        visual_tokens=budget.visual_tokens(width, height),
    )
    return [Message("user", (view, "Is this an image?"))]
