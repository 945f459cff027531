"""The model under training as a policy: our engine, TRL's own generation or vLLM, one turn at a time, under our episodes.

Token-in and token-out like every policy of ours; knows nothing about turns.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from visionthink.errors import OptionError
from visionthink.policies import memory
from visionthink.policies.render import Renderer, shown, views, within_context
from visionthink.resolution import PixelBudget
from visionthink.train.vllm import Sampled, TrainingVllm
from visionthink.types import Completion, History

if TYPE_CHECKING:
    from trl import GRPOTrainer

Sample: TypeAlias = Callable[[Sequence[int]], list[Completion]]
"""Completes the prompts of these indices, all at once."""


class TrainerPolicy:
    """Samples from the weights a TRL trainer is training, wherever it keeps them."""

    def __init__(self, trainer: GRPOTrainer, renderer: Renderer, image_processor: Any, budget: PixelBudget):
        self.trainer, self.renderer, self.image_processor = trainer, renderer, image_processor
        self.vllm = TrainingVllm(trainer, renderer, budget) if trainer.use_vllm else None
        self._banned: tuple[int, ...] = ()

    def forbidding(self, text: str) -> TrainerPolicy:
        """The same weights, unable to say `text`.

        Raises:
            OptionError: `text` is not in a single token of its own, which alone can be kept from being sampled.
        """
        other = copy.copy(self)
        own = self.renderer.own_ids(text)
        if not own:
            raise OptionError(f"this tokenizer has no token of its own for {text!r}: it cannot be forbidden while training")
        other._banned = (*self._banned, *own)
        return other

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history; an error where the prompt leaves the model's context no room for an answer."""
        prompts = [self.renderer.prompt_ids(history) for history in histories]
        context = self.vllm.context if self.vllm else self.trainer.model.config.get_text_config().max_position_embeddings

        def sample(part: Sequence[int]) -> list[Completion]:
            return self._sample([prompts[i] for i in part], [histories[i] for i in part])

        complete, lengths = self._halving(sample), [len(ids) for ids in prompts]
        return within_context(prompts, context, lambda part: memory.complete_in_parts(part, lengths, self._fitting, complete))

    def _halving(self, sample: Sample) -> Sample:
        """The same, in halves where memory runs out."""
        return memory.halving(sample)

    def _fitting(self, lengths: Sequence[int]) -> int:
        """How many of the first prompts to generate for at once: vLLM schedules by itself, transformers holds them all."""
        if self.vllm:
            return len(lengths)
        model, accelerator = self.trainer.model, self.trainer.accelerator
        value_bytes = 2 if accelerator.native_amp else model.dtype.itemsize
        # in half precision, of weights in float32 that are trained; and whole, of weights that are gathered
        copied = (p for p in model.parameters() if p.dtype.itemsize > value_bytes or hasattr(p, "ds_numel"))
        copies = sum(value_bytes * getattr(p, "ds_numel", p.numel()) for p in copied)
        per_token = memory.bytes_per_token(model.config, value_bytes)
        totals = [n + self.trainer.generation_config.max_new_tokens for n in lengths]
        return memory.fitting(totals, per_token, memory.free_bytes(accelerator.device) - copies, most=len(lengths))

    def _sample(self, prompts: list[list[int]], histories: list[History]) -> list[Completion]:
        started = time.perf_counter()
        if self.vllm:
            turns = self.vllm.sample(prompts, [views(history) for history in histories], self._banned)
        elif self.trainer.engine:
            said = self.trainer.complete(prompts, shown(histories), self._banned)
            turns = [Sampled(each.ids, each.logprobs) for each in said]
        else:
            turns = [Sampled(tuple(ids)) for ids in self._generate(prompts, histories)]
        seconds = (time.perf_counter() - started) / len(prompts)
        return [self._completion(prompt, turn, seconds) for prompt, turn in zip(prompts, turns, strict=True)]

    def _completion(self, prompt: list[int], turn: Sampled, seconds: float) -> Completion:
        if turn.failure:
            return Completion.failed(turn.failure.kind, turn.failure.text, seconds=seconds)
        return Completion(
            text=self.renderer.decode(turn.ids),
            finish_reason="stop" if turn.ids and turn.ids[-1] in self.renderer.end_ids else "length",
            prompt_ids=tuple(prompt),
            token_ids=turn.ids,
            logprobs=turn.logprobs,
            seconds=seconds,
        )

    def _generate(self, prompts: list[list[int]], histories: Sequence[History]) -> list[list[int]]:
        images = shown(histories)
        pixels = self.image_processor(images=[image for row in images for image in row], return_tensors="pt")
        # in the precision of the forward pass that is trained: adapters are in float32 beside weights in bfloat16
        with self._ban(), self.trainer.accelerator.autocast(), self._checkpointing():
            sampled, _ = self.trainer._generate_single_turn(
                prompts, images, dict(pixels), num_generations=1, has_tool_images=True
            )
        return sampled

    @contextlib.contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """TRL recomputes no activations while it generates, and where memory runs out would not do so again."""
        try:
            yield
        except torch.OutOfMemoryError:
            arguments, model = self.trainer.args, self.trainer.accelerator.unwrap_model(self.trainer.model)
            if arguments.gradient_checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments.gradient_checkpointing_kwargs)
            raise

    def _ban(self) -> contextlib.AbstractContextManager[None]:
        if not self._banned:
            return contextlib.nullcontext()
        always = self.trainer.generation_config.suppress_tokens or ()
        return self._generation(suppress_tokens=sorted({*always, *self._banned}))

    @contextlib.contextmanager
    def _generation(self, **changes: Any) -> Iterator[None]:
        """Other settings of `generate`."""
        usual = self.trainer.generation_config
        self.trainer.generation_config = copy.deepcopy(usual)
        self.trainer.generation_config.update(**changes)
        try:
            yield
        finally:
            self.trainer.generation_config = usual
