"""The model under training as a policy: TRL's own generation (transformers or vLLM), one turn at a time, under our episodes.

Token-in and token-out like every policy of ours; knows nothing about turns.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from visionthink.errors import OptionError
from visionthink.policies.render import Renderer, views
from visionthink.types import Completion, History

if TYPE_CHECKING:
    from trl import GRPOTrainer


class TrainerPolicy:
    """Samples from the weights a TRL trainer is training, wherever it keeps them."""

    def __init__(self, trainer: GRPOTrainer, renderer: Renderer, image_processor: Any):
        self.trainer, self.renderer, self.image_processor = trainer, renderer, image_processor
        self._banned: tuple[int, ...] = ()

    def forbidding(self, text: str) -> TrainerPolicy:
        """The same weights, unable to say `text`.

        Raises:
            OptionError: `text` is not in a single token of its own, which alone can be kept from being sampled.
        """
        other = copy.copy(self)
        added = [i for i, t in self.renderer.tokenizer.added_tokens_decoder.items() if text in t.content]
        if not added:
            raise OptionError(f"this tokenizer has no token of its own for {text!r}: it cannot be forbidden while training")
        other._banned = (*self._banned, *added)
        return other

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        started = time.perf_counter()
        prompts = [self.renderer.prompt_ids(history) for history in histories]
        images = [[view.image for view in views(history)] for history in histories]
        pixels = self.image_processor(images=[image for row in images for image in row], return_tensors="pt")
        with self._ban():
            sampled, logprobs = self.trainer._generate_single_turn(
                prompts, images, dict(pixels), num_generations=1, has_tool_images=True
            )
        seconds = (time.perf_counter() - started) / len(histories)
        return [
            Completion(
                text=self.renderer.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
                finish_reason="stop" if ids and ids[-1] in self.renderer.end_ids else "length",
                token_ids=tuple(ids),
                prompt_ids=tuple(prompt),
                logprobs=None if logprobs is None else tuple(logprobs[i]),
                seconds=seconds,
            )
            for i, (prompt, ids) in enumerate(zip(prompts, sampled, strict=True))
        ]

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
