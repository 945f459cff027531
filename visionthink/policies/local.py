"""A policy on stock transformers: Qwen2.5-VL and Qwen3-VL, batched, token-in and token-out, with log-probabilities.

Knows nothing about turns. Every call prefills the whole context again; image and vision tokens cannot be sampled.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from visionthink.errors import OptionError
from visionthink.policies import memory
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.render import Renderer, views, within_context
from visionthink.protocol import Protocol
from visionthink.types import Completion, FinishReason, History

CompleteBatch = Callable[[Sequence[History]], list[Completion]]


class LocalPolicy:
    """Samples from a loaded checkpoint.

    Args:
        checkpoint: see `policies.checkpoint.open_checkpoint`.
        protocol: overrides the checkpoint's own (only its turn boundary matters here).
        temperature: 0 is greedy.
        max_new_tokens: per turn; a turn that reaches it ends with finish reason "length".
        batch_size: histories per forward pass; None takes as many as fit into memory.
        seed: of the sampling; the same seed and order of calls give the same text.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        protocol: Protocol | None = None,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        batch_size: int | None = None,
        seed: int = 0,
    ):
        for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise OptionError(f"{name} {value}: must be at least 1")
        if not 0 <= temperature < math.inf:
            raise OptionError(f"temperature {temperature}: must be a number of at least 0")
        self.checkpoint = checkpoint
        self.renderer = Renderer(checkpoint.tokenizer, (protocol or checkpoint.protocol).boundary)
        self.temperature, self.max_new_tokens, self.batch_size = temperature, max_new_tokens, batch_size
        self._generator_seed = seed
        # generation keeps position offsets in the model itself: one call at a time, shared by every copy of the policy
        self._alone = threading.Lock()
        self._suppressed = self.renderer.never_sampled
        self._bad_words: list[list[int]] = []

    @property
    def config(self) -> Any:
        """Of the model, as transformers has it."""
        return self.checkpoint.model.config

    @property
    def value_bytes(self) -> int:
        """Of a weight, or of a value in the cache."""
        return self.checkpoint.model.dtype.itemsize

    def forbidding(self, text: str) -> Self:
        """The same policy, unable to say `text`; it shares the weights."""
        other = copy.copy(self)
        if own := self.renderer.own_ids(text):
            other._suppressed = sorted({*self._suppressed, *own})
        else:
            other._bad_words = [*self._bad_words, self.renderer.plain(text)]
        return other

    def seeded(self, seed: int) -> Self:
        """The same policy with its sampling begun anew; it shares the weights."""
        other = copy.copy(self)
        other._generator_seed = seed
        return other

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history; an error where the prompt leaves the model's context no room for an answer."""
        return self.complete_with(self.complete_batch, histories)

    def complete_with(self, complete_batch: CompleteBatch, histories: Sequence[History]) -> list[Completion]:
        """As `complete`, where `complete_batch` completes as many histories at once as fit into memory."""
        context = self.checkpoint.model.config.get_text_config().max_position_embeddings
        prompts = [self.renderer.prompt_ids(history) for history in histories]

        def size(rest: Sequence[int]) -> int:
            return self.batch_size or self._fitting([len(prompts[i]) for i in rest])

        complete = memory.halving(lambda part: complete_batch([histories[i] for i in part]))
        return within_context(prompts, context, lambda fitting: memory.complete_in_parts(fitting, size, complete))

    def _fitting(self, lengths: Sequence[int]) -> int:
        model = self.checkpoint.model
        per_token = memory.bytes_per_token(model.config, model.dtype.itemsize)
        return memory.fitting([n + self.max_new_tokens for n in lengths], per_token, memory.free_bytes(model.device))

    def complete_batch(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history, all read at once."""
        started = time.perf_counter()
        prompts = [self.renderer.prompt_ids(history) for history in histories]
        recorder = _LogprobRecorder()
        with (
            self._alone,
            torch.inference_mode(),
            torch.random.fork_rng(enabled=self.temperature > 0),
            recorder.listening_to(self.checkpoint.model),
        ):
            if self.temperature > 0:
                torch.manual_seed(self._generator_seed)
                self._generator_seed += 1
            output = self.checkpoint.model.generate(
                **self.model_inputs(prompts, histories),
                max_new_tokens=self.max_new_tokens,
                do_sample=self.temperature > 0,
                # the checkpoint holds no settings of its own (`read_generation`); transformers would take the 50 best
                **({"temperature": self.temperature, "top_k": 0} if self.temperature else {}),
                suppress_tokens=self._suppressed,
                bad_words_ids=self._bad_words or None,
                eos_token_id=self.renderer.end_ids,
                pad_token_id=self.checkpoint.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([recorder]),
            )
            sampled = output[:, max(len(p) for p in prompts) :]
            logprobs = recorder.finish(sampled)
        share = 1 / len(histories)
        seconds = (time.perf_counter() - started) * share
        first_token_seconds = (recorder.first_token - started) * share
        return [
            self._completion(prompt, ids, scores, seconds, first_token_seconds)
            for prompt, ids, scores in zip(prompts, sampled.tolist(), logprobs.tolist(), strict=True)
        ]

    def model_inputs(self, prompts: Sequence[list[int]], histories: Sequence[History]) -> dict[str, torch.Tensor]:
        """Left-padded input_ids and attention_mask [batch, width], pixel_values [patches, features], image_grid_thw
        [images, 3]."""
        device = self.checkpoint.model.device
        width = max(len(p) for p in prompts)
        pad = self.checkpoint.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        inputs = {"input_ids": ids, "attention_mask": mask}
        images = [view.image for history in histories for view in views(history)]
        if images:
            pixels = self.checkpoint.image_processor(images=images, return_tensors="pt")
            inputs |= {
                "pixel_values": pixels["pixel_values"].to(self.checkpoint.model.dtype),
                "image_grid_thw": pixels["image_grid_thw"],
                "mm_token_type_ids": (ids == self.renderer.image_pad_id).long(),
            }
        return {name: tensor.to(device) for name, tensor in inputs.items()}

    def _completion(
        self, prompt: list[int], ids: list[int], logprobs: list[float], seconds: float, first_token_seconds: float
    ) -> Completion:
        if not all(map(math.isfinite, logprobs)):
            return Completion.failed("server", "the model's logits are not numbers", seconds=seconds)
        end = next((i for i, token in enumerate(ids) if token in self.renderer.end_ids), None)
        finish: FinishReason = "length" if end is None else "stop"
        length = len(ids) if end is None else end + 1
        text = self.renderer.decode(ids[:end])
        return Completion(
            text=text,
            finish_reason=finish,
            token_ids=tuple(ids[:length]),
            prompt_ids=tuple(prompt),
            logprobs=tuple(logprobs[:length]),
            seconds=seconds,
            first_token_seconds=first_token_seconds,
        )


class _LogprobRecorder(LogitsProcessor):
    """Log-probabilities of what is sampled, under the model's own distribution: before any ban, at temperature 1.

    Keeps one step of logits at a time (all of them would be steps x vocabulary per row). A hook on the head sees the
    raw logits; the next step, as a processor, sees what was drawn from them.
    """

    def __init__(self) -> None:
        self._raw: torch.Tensor | None = None
        self._steps: list[torch.Tensor] = []
        self.first_token = 0.0
        """When its logits were there, by `time.perf_counter`."""

    @contextlib.contextmanager
    def listening_to(self, model: Any) -> Iterator[None]:
        def keep(_module: Any, _inputs: Any, logits: torch.Tensor) -> None:
            self._raw = logits[:, -1]

        hook = model.get_output_embeddings().register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._steps:
            if scores.is_cuda:
                torch.cuda.synchronize(scores.device)
            self.first_token = time.perf_counter()
        self._steps.append(self._raw.float() if self._raw is not None else scores)
        if len(self._steps) > 1:
            self._steps[-2] = self._pick(self._steps[-2], input_ids[:, -1])
        return scores.nan_to_num(nan=0.0, neginf=-torch.inf)  # so that one bad row does not stop the draw of the others

    @staticmethod
    def _pick(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)

    def finish(self, sampled: torch.Tensor) -> torch.Tensor:
        """[batch, steps], like `sampled`."""
        self._steps[-1] = self._pick(self._steps[-1], sampled[:, -1])
        return torch.stack(self._steps, dim=1)
