"""The model under training as a policy: TRL's own generation (transformers or vLLM), one turn at a time, under our episodes.

Token-in and token-out like every policy of ours; knows nothing about turns.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from visionthink.errors import OptionError
from visionthink.policies.render import Renderer, views, within_context
from visionthink.resolution import PixelBudget
from visionthink.train.vllm import Sampled, TrainingVllm
from visionthink.types import Completion, History

if TYPE_CHECKING:
    from trl import GRPOTrainer


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
        own = self.trainer.model.config.get_text_config().max_position_embeddings
        said = within_context(
            prompts,
            self.vllm.context if self.vllm else own,
            lambda fitting: self._complete([prompts[i] for i in fitting], [histories[i] for i in fitting]),
        )
        # those of a failure, too: the images that it was shown are among those that TRL counts
        return [dataclasses.replace(c, prompt_ids=tuple(ids)) for c, ids in zip(said, prompts, strict=True)]

    def _complete(self, prompts: list[list[int]], histories: list[History]) -> list[Completion]:
        started = time.perf_counter()
        if self.vllm:
            turns = self.vllm.sample(prompts, [views(history) for history in histories], self._banned)
        else:
            turns = [Sampled(tuple(ids), None) for ids in self._generate(prompts, histories)]
        seconds = (time.perf_counter() - started) / len(prompts)
        return [self._completion(turn, seconds) for turn in turns]

    def _completion(self, turn: Sampled, seconds: float) -> Completion:
        if turn.failure:
            return Completion.failed(turn.failure.kind, turn.failure.text, seconds=seconds)
        return Completion(
            text=self.renderer.decode(turn.ids),
            finish_reason="stop" if turn.ids and turn.ids[-1] in self.renderer.end_ids else "length",
            token_ids=turn.ids,
            logprobs=turn.logprobs,
            seconds=seconds,
        )

    def _generate(self, prompts: list[list[int]], histories: Sequence[History]) -> list[list[int]]:
        images = [[view.image for view in views(history)] for history in histories]
        pixels = self.image_processor(images=[image for row in images for image in row], return_tensors="pt")
        with self._ban():
            sampled, _ = self.trainer._generate_single_turn(
                prompts, images, dict(pixels), num_generations=1, has_tool_images=True
            )
        return sampled

    @contextlib.contextmanager
    def _ban(self) -> Iterator[None]:
        if not self._banned:
            yield
            return
        usual = self.trainer.generation_config
        self.trainer.generation_config = copy.deepcopy(usual)
        self.trainer.generation_config.suppress_tokens = sorted({*(usual.suppress_tokens or ()), *self._banned})
        try:
            yield
        finally:
            self.trainer.generation_config = usual
